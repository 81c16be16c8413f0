"""The rows of history in the .wandb files of offline runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.wandb_log import read_records


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of history in a .wandb file, nested keys joined by `/`; wandb's own keys begin with `_`."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(file)
        if record.HasField("history")
    ]
