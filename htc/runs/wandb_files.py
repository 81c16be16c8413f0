"""The files that wandb leaves of offline runs: where they are, and what is in them.

wandb makes a new folder for each part of a run that is resumed offline, all of one id; `wandb sync` sends each as the
whole run. So there must be one folder, with everything in it: see `htc.runs.tracking.Tracker`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7
BLOCK = 32768
WHOLE, LAST = 1, 4


def offline_files(folder: Path) -> list[Path]:
    """The logs of the offline runs in a run folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def remove_offline_runs(files: list[Path]) -> None:
    """Delete offline runs that a later one holds in full. Logs go first: what is without one is not sent."""
    for file in files:
        file.unlink(missing_ok=True)
        shutil.rmtree(file.parent, ignore_errors=True)


def read_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: protocol buffers in the blocks of a LevelDB log, behind a header of 7 bytes.

    Ends at what a crash left of a record.
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
        length, part = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if position + HEADER + length > len(data):
            return
        record += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if part in (WHOLE, LAST):
            message = record_type()
            message.ParseFromString(record)
            yield message
            record = b""


def read_history(file: Path) -> list[dict[str, Any]]:
    """The rows of history in a .wandb file, nested keys joined by `/`; wandb's own keys begin with `_`."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(file)
        if record.HasField("history")
    ]
