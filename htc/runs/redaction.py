"""Redaction of secrets in recorded text, such as commands, code changes and log lines."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

REDACTED = "<redacted>"

_SECRET_NAME = (
    r"(?:(?:api|access|private|secret|auth|wandb)[_-]?key|token|secret|password|passwd|passphrase|credentials?)"
)
_VALUE = (
    r"""[rbfu]{0,2}(?:(?P<quote>\"{3}|'{3})(?:\\.|(?!(?P=quote)).)*(?P=quote)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?"""
    r"""|[^\s"',;}]+(?:["']\w+)*)"""
)
_OPENED = r"(?:[(\[]\s*(?:\+\s*)?)?"
"""An opening bracket, and the `+` of a diff where the value is on the next line."""
_SECRETS = [
    # `api_key: str = VALUE`, `"token": VALUE`, `environ["API_KEY"] = VALUE`
    re.compile(
        rf"(?P<name>{_SECRET_NAME}\\?[\"']?\]?[ \t]*(?::[ \t]*[\w.\[]*\b(?:str|bytes|Any)\b[\] |None]*=|[:=]=?>?)"
        rf"[ \t]*{_OPENED}){_VALUE}",
        re.IGNORECASE | re.DOTALL,
    ),
    # `setdefault("API_KEY", VALUE)`
    re.compile(
        rf"(?P<name>\(\s*[\"'][\w.-]*{_SECRET_NAME}[\"']\s*,\s*)(?=[rbfu]{{0,2}}[\"']){_VALUE}",
        re.IGNORECASE | re.DOTALL,
    ),
    # `wandb.login(key=VALUE)`
    re.compile(rf"(?P<name>\blogin\([^()]{{0,200}}?\bkey\s*=\s*){_VALUE}", re.IGNORECASE | re.DOTALL),
    # Keys of Weights & Biases: the older ones look like commits, so they are recognised by the preceding text.
    re.compile(
        rf"(?P<name>(?:wandb[\w.]{{0,20}}|key|login|{_SECRET_NAME})\b(?:[ \t]--?[a-z][\w-]{{0,20}}){{0,4}}"
        r"[^\w\n]{1,12})\b[0-9a-f]{40}\b",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<name>)\bwandb_v\d+_\w+"),
]
_SECRET_OPTION = re.compile(rf"--?[\w.-]*{_SECRET_NAME}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"{_SECRET_NAME}$", re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text without secrets.

    Secrets are values assigned to names such as `api_key`, values of environment variables with such names, and keys of
    Weights & Biases.
    """
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= 8:
            text = text.replace(value, REDACTED)
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<name>{REDACTED}", text)
    return text


def redact_command(arguments: Sequence[str]) -> str:
    """Return a command line as a shell reads it, without secrets (`api_key=...`, `--token ...`)."""
    safe: list[str] = []
    for argument in arguments:
        if safe and _SECRET_OPTION.match(safe[-1]):
            safe.append(REDACTED)
            continue
        name, equals, _ = argument.partition("=")
        secret = bool(equals) and _SECRET_VARIABLE.search(name) is not None
        safe.append(f"{name}={REDACTED}" if secret else redact(argument))
    return shlex.join(safe)
