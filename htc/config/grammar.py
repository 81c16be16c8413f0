"""Arguments that Hydra's grammar cannot read, explained with an example of how to write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

SIGNS = (
    "Error parsing override", "mismatched input", "extraneous input", "no viable alternative", "token recognition",
    "LexerNoViableAltException", "missing EQUAL", "OverrideParseException",
)  # fmt: skip
"""Words of the messages of Hydra's parser."""
KEY = re.compile(r"(?:~|\+{0,2})[A-Za-z_][\w./-]*(?:@[\w.:-]*)?", re.ASCII)
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def is_grammar_error(message: str) -> bool:
    """Return whether a message is one of Hydra's parser."""
    return any(sign in message for sign in SIGNS)


def explain_grammar(message: str, arguments: Sequence[str]) -> str | None:
    """Return one sentence about the first argument that the grammar cannot read; None if all can be read.

    Args:
        message: Hydra's message, which may quote the argument.
        arguments: the command line without the program.
    """
    quoted = re.search(r"parsing override '(.*?)'(?: |$)", message)
    candidates = [*([quoted[1]] if quoted else []), *(each for each in arguments if not each.startswith("-"))]
    parser = OverridesParser.create()
    for argument in candidates:
        try:
            parser.parse_override(argument)
        except HydraException:
            return _sentence(argument)
        except Exception:  # noqa: BLE001 - the parser raises many kinds of errors about functions and their arguments
            return f"{argument} cannot be read: {' '.join(message.split()).removesuffix('.')}."
    return None


def _sentence(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if argument.startswith("~"):
        return f"{argument} cannot be read: write ~KEY, which removes a key that was added with +KEY=VALUE."
    if not equals:
        return f"{argument} is not of the form KEY=VALUE, as in {_plain_key(argument)}=VALUE."
    if not KEY.fullmatch(key):
        shown = key or "an empty text"
        return f"{argument} cannot be read: {shown} is no key; write KEY=VALUE, as in seed=1 or model.mask_flow=false."
    if unclosed := _unclosed(value):
        closed = f"'{argument}{unclosed[::-1]}'" if unclosed[0] in ")]}" else _example(key, value)
        return f"{argument} cannot be read: a bracket or quote is not closed; write it as in {closed}."
    return (
        f"{argument} cannot be read: a value with other characters than letters, digits and -_./:+@%*?| needs quotes, "
        f"as in {_example(key, value)}."
    )


def _plain_key(text: str) -> str:
    found = KEY.match(text)
    return found[0] if found else "KEY"


def _unclosed(value: str) -> str:
    """Return the quote that is not closed, or what closes the open brackets, outermost first; else an empty text."""
    open_brackets: list[str] = []
    quote = ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in BRACKETS:
            open_brackets.append(character)
        elif open_brackets and character == BRACKETS[open_brackets[-1]]:
            open_brackets.pop()
    return quote or "".join(BRACKETS[each] for each in open_brackets)


def _example(key: str, value: str) -> str:
    """Return the argument with its value quoted for Hydra, and all of it quoted for the shell."""
    # A lost quote or bracket is part of the mistake, and not of the value.
    text = re.sub(r"[\"'`]", "", value).lstrip("=") or "VALUE"
    return f"'{key}=\"{text}\"'"
