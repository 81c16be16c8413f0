"""Read a large JSON object table by table, one row at a time.

`json.load` would keep all of COCO's annotations in memory as Python objects, which takes several gigabytes; here only
one row exists at a time. The rows are parsed by the standard library's scanner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from json.decoder import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, TextIO

from htc.errors import UserError

CHUNK = 1 << 22
"""Number of characters read at a time; more if a single value is longer."""
SPACE = re.compile(r"[ \t\n\r]*")


def read_tables(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (name, row) for each row of the arrays `names` of the JSON object in `path`, in the file's order.

    Each of these arrays must occur exactly once; other keys are skipped. Raises UserError if the file is missing,
    cannot be read, is not valid JSON, is not an object, or lacks one of the arrays.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: check data.root and the data's `annotations` path.")
    try:
        with path.open("rb") as raw:
            encoding = json.detect_encoding(raw.read(4))
        with path.open(encoding=encoding, newline="") as file:
            yield from _Reader(file, path).rows(names)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): download or write it again.") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply: give a file in COCO's instances format.") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid JSON ({reason}): download or write it again.") from error


class _Reader:
    """A window of the file's text, which grows until it contains the next value and drops what has been read."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.position = "", 0
        self.window_start = 0
        """Number of characters of the file before the window."""
        self.ended = False
        # `raw_decode` only wraps this C scanner to raise another exception.
        self.scan: Callable[[str, int], tuple[Any, int]] = JSONDecoder().scan_once  # type: ignore[attr-defined]

    def rows(self, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """Yield the rows of the arrays `names` as (name, row)."""
        if self.peek() != "{":
            self.value()
            self.end()
            raise UserError(f"{self.path} has no `{names[0]}`: give a file in COCO's instances format.")
        seen: set[str] = set()
        for _ in self.items("{", "}"):
            key = self.value()
            if not isinstance(key, str):
                self.fail("a key is not a string")
            self.expect(":")
            if key not in names:
                self.value()
                continue
            if key in seen:
                raise UserError(f"{self.path} holds `{key}` twice: keep one of the two.")
            seen.add(key)
            if self.peek() != "[":
                raise UserError(f"{self.path}: `{key}` is not a list: give a file in COCO's instances format.")
            for _ in self.items("[", "]"):
                yield key, self.value()
        self.end()
        missing = [name for name in names if name not in seen]
        if missing:
            raise UserError(f"{self.path} has no `{missing[0]}`: give a file in COCO's instances format.")

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before each item of an array or object; the caller then reads the item."""
        self.expect(opening)
        if self.peek() == closing:
            self.position += 1
            return
        while True:
            yield
            found = self.peek()
            self.position += 1
            if found == closing:
                return
            if found != ",":
                self.fail(f"',' or '{closing}' expected")

    def value(self) -> Any:
        """Read the next value."""
        self.peek()
        while True:
            try:
                value, end = self.scan(self.text, self.position)
            except (JSONDecodeError, StopIteration) as error:
                # The value may continue after the window, so it is invalid only if the file ends here.
                if self.grow():
                    continue
                self.position = error.pos if isinstance(error, JSONDecodeError) else int(error.value)
                self.fail(error.msg if isinstance(error, JSONDecodeError) else "a value expected")
            # A number at the end of the window may continue after it.
            if end < len(self.text) or not self.grow():
                self.position = end
                return value

    def peek(self) -> str:
        """Skip white space and return the next character, which stays unread; empty at the end of the file."""
        while True:
            space = SPACE.match(self.text, self.position)
            assert space is not None
            self.position = space.end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.grow():
                return ""

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self.fail(f"'{character}' expected")
        self.position += 1

    def end(self) -> None:
        if self.peek():
            self.fail("more text after the end")

    def grow(self) -> bool:
        """Drop what has been read and read more text; return False at the end of the file."""
        if self.ended:
            return False
        self.text = self.text[self.position :]
        self.window_start += self.position
        self.position = 0
        # The window at least doubles, so that a long value is scanned again a few times and not once per chunk.
        more = self.file.read(max(CHUNK, len(self.text)))
        self.ended = not more
        self.text += more
        return bool(more)

    def fail(self, reason: str) -> None:
        raise ValueError(f"{reason} at character {self.window_start + self.position}")
