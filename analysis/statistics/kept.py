"""Arrays that are computed once and kept in a file next to what they are computed from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from analysis.statistics.truth import Array


def stamp_of(version: int, files: Iterable[Path]) -> str:
    """Return a text that changes with files and the version of a computation. Raises OSError for a missing file."""
    facts = [file.stat() for file in files]
    return repr([version, *((each.st_size, each.st_mtime_ns) for each in facts)])


def read_kept(path: Path, stamp: str, names: Iterable[str]) -> dict[str, Array] | None:
    """Return arrays by name; None where the file is missing, damaged, or has another stamp."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in names} if str(kept["stamp"]) == stamp else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep(path: Path, stamp: str, arrays: dict[str, Array]) -> None:
    """Write arrays by name; in a folder of another user, they are computed again next time."""
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    with suppress(OSError):
        np.savez_compressed(temporary, stamp=np.array(stamp), **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
