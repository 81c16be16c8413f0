"""Reader of the .wandb files that wandb writes for offline runs: protocol buffers in the blocks of a LevelDB log."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = 7
"""Bytes of the file's header, and of the header of each chunk: checksum (4), length (2), type (1)."""
BLOCK = 32768
"""Bytes of a block; a chunk does not cross the border of a block."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Types of chunks: a record is one full chunk, or a first one, any number of middle ones, and a last one."""
MAGIC = b":W&B"


class DamagedLogError(Exception):
    """A .wandb file cannot be used. The message gives the reason."""


@dataclass
class LoggedRun:
    """What a .wandb file says of its run."""

    id: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    """None where the run has not ended."""


def read_run_log(file: Path) -> LoggedRun:
    """Return the run of a .wandb file.

    Raises DamagedLogError where the file is damaged, and ImportError where wandb is not installed.
    """
    run: LoggedRun | None = None
    for record in read_records(file):
        if record.HasField("run"):
            before = run
            run = LoggedRun(record.run.run_id, record.run.display_name)
            if before is not None:
                run.config, run.summary = before.config, before.summary
            _apply(run.config, record.run.config)
            _apply(run.summary, record.run.summary)
        elif run is not None and record.HasField("config"):
            _apply(run.config, record.config)
        elif run is not None and record.HasField("summary"):
            _apply(run.summary, record.summary)
        elif run is not None and record.HasField("exit"):
            run.exit_code = record.exit.exit_code
    if run is None:
        raise DamagedLogError("it has no record of a run")
    return run


def read_records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file.

    An incomplete record at the end, as a crash leaves it, is skipped. Raises DamagedLogError for any other damage.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    record_type: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DamagedLogError(error.strerror or "it cannot be read") from error
    for position, content in _read_contents(data):
        message = record_type()
        try:
            message.ParseFromString(content)
        except DecodeError as error:
            raise DamagedLogError(f"its record at byte {position} cannot be decoded") from error
        yield message


def _read_contents(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield position and content of each complete record."""
    if not data:
        return
    if data[:4] != MAGIC:
        raise DamagedLogError("it does not begin as a file of wandb")
    position, record, begun = HEADER, b"", False
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        start = position + HEADER
        checksum = int.from_bytes(data[position : position + 4], "little")
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if not any(data[position:]) or start + length > len(data):
            # The end of a file whose last write did not reach the disk.
            return
        content = data[start : start + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or (kind in (MIDDLE, LAST)) != begun:
            raise DamagedLogError(f"its chunk at byte {position} is of a wrong type")
        if zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            raise DamagedLogError(f"its checksum at byte {position} is wrong")
        record += content
        begun = kind in (FIRST, MIDDLE)
        if not begun:
            yield position, record
            record = b""
        position = start + length


def _apply(values: dict[str, Any], change: Any) -> None:
    """Apply a record with updates and removals to nested values."""
    for item in change.update:
        *path, last = _path_of(item)
        inner = values
        for key in path:
            nested = inner.get(key)
            inner[key] = inner = nested if isinstance(nested, dict) else {}
        try:
            inner[last] = json.loads(item.value_json)
        except ValueError as error:
            raise DamagedLogError(f"its value of {last} is not JSON") from error
    for item in change.remove:
        *path, last = _path_of(item)
        inner = values
        for key in path:
            inner = inner.get(key) if isinstance(inner.get(key), dict) else {}  # type: ignore[assignment]
        inner.pop(last, None)


def _path_of(item: Any) -> Iterable[str]:
    return list(item.nested_key) or [item.key]
