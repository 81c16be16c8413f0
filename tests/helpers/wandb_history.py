"""Reader of the .wandb files that wandb writes for offline runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7
"""Bytes of the file's header, and of the header of each chunk."""
BLOCK = 32768
"""Bytes of a block of the LevelDB log; a chunk does not cross the border of a block."""
FULL, LAST = 1, 4
"""Types of the chunks that end a record."""


def read_records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: protocol buffers in the blocks of a LevelDB log, after a header of 7 bytes.

    An incomplete record at the end, as a crash leaves it, is skipped.
    """
    from wandb.proto import wandb_internal_pb2

    record_type: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]
    data = file.read_bytes()
    if data[:4] != b":W&B":
        return
    position, record = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        length, chunk_type = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if position + HEADER + length > len(data):
            return
        record += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if chunk_type in (FULL, LAST):
            message = record_type()
            message.ParseFromString(record)
            yield message
            record = b""


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of history in a .wandb file, nested keys joined by `/`; wandb's own keys begin with `_`."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(file)
        if record.HasField("history")
    ]
