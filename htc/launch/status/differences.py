"""The settings in which runs differ, as columns of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from htc.config.signature import with_defaults

MAX_COLUMNS = 5
MAX_WIDTH = 24
"""Characters of a value."""


def varying_columns(identities: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a column for each setting in which runs differ: its values by its key, shortened where that is unique.

    identities: for each run, the settings that differ from the defaults; empty where they are not known.
    """
    known = [identity for identity in identities if identity]
    defaults = with_defaults({})
    keys = dict.fromkeys(key for identity in known for key in identity)
    varying = [key for key in keys if len({_word(identity.get(key, defaults.get(key))) for identity in known}) > 1][
        :MAX_COLUMNS
    ]
    leaves = [key.rpartition(".")[2] for key in varying]
    columns = {}
    for key, leaf in zip(varying, leaves, strict=True):
        header = leaf if leaves.count(leaf) == 1 else key
        columns[header] = [_word(identity.get(key, defaults.get(key))) if identity else "" for identity in identities]
    return columns


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..."
