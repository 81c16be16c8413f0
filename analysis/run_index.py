"""An index of run folders: what tables read of each run, so that unchanged runs are not read again.

`runs/.index/tables.json` may be deleted at any time. It is used only where it is whole, was written by this version of
the reading code, and the files of a run are those that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import analysis
import htc
from htc.runs.files import atomic_write
from htc.runs.json_values import mapping

INDEX_FILE = Path(".index", "tables.json")
"""Path of the index in the folder of runs."""
SETTLED = 2.0
"""Seconds since its last change after which a file is indexed: a later change within one tick of the clock of the file
system could keep size and time."""
READING_CODE = (("analysis", "runs.py"), ("htc", "config"), ("htc", "runs"))
"""Modules that decide what is read of a run; relative to the folder that has both packages."""

Stamps = list[list[int]]


class RunIndex:
    """The index of one folder of runs. An index that cannot be read is empty; one that cannot be written is not kept.

    Args:
        root: folder of runs.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / INDEX_FILE
        content = _read(self._path)
        self._known: dict[str, Any] = mapping(content.get("runs"))
        self._known_settings: dict[str, Any] = mapping(content.get("settings"))
        self._used: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._changed = False

    def find(self, name: str, files: Iterable[Path]) -> dict[str, Any] | None:
        """Return what was kept of a run; None where its files have changed since, or it is not known.

        Args:
            name: path of the run's folder relative to the folder of runs, and the name of the evaluation.
            files: files that were read of the run.
        """
        entry = mapping(self._known.get(name))
        stamps, settings = entry.get("stamps"), self._known_settings.get(entry.get("settings", ""))
        if stamps != stamps_of(files) or not isinstance(settings, dict):
            return None
        self._used[name] = entry
        # Runs that differ in the seed only share one dict.
        return {**mapping(entry.get("run")), "settings": self._settings.setdefault(entry["settings"], settings)}

    def keep(self, name: str, files: Sequence[Path], stamps: Stamps, run: dict[str, Any]) -> None:
        """Keep what was read of a run, unless its files are changing just now.

        Args:
            name: as in `find`.
            files: files that were read of the run.
            stamps: `stamps_of(files)` before they were read.
            run: what was read: values of JSON.
        """
        if stamps != stamps_of(files) or any(time.time() - each[0] / 1e9 < SETTLED for each in stamps):
            return
        settings = run["settings"]
        try:
            text = json.dumps(settings, sort_keys=True)
        except (TypeError, ValueError):
            return
        if json.loads(text) != settings:
            return
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._settings.setdefault(key, settings)
        self._used[name] = {"stamps": stamps, "settings": key, "run": {**run, "settings": None}}
        self._changed = True

    def save(self) -> None:
        """Write the index, if it has changed and the folder can be written."""
        if not self._changed and len(self._used) == len(self._known):
            return
        content = json.dumps({"code": code_hash(), "settings": self._settings, "runs": self._used})
        text = f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}\n"
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            with atomic_write(self._path) as file:
                file.write(text)


def stamps_of(files: Iterable[Path]) -> Stamps:
    """Return time of change (ns), size and inode of each file; zeros for a missing file."""
    found = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append([0, 0, 0])
        else:
            found.append([stat.st_mtime_ns, stat.st_size, stat.st_ino])
    return found


@cache
def code_hash() -> str:
    """Return a hash of the code that reads runs: settings have defaults that follow from it."""
    top = {"analysis": Path(analysis.__file__).parent, "htc": Path(htc.__file__).parent}
    hashed = hashlib.sha256()
    for package, name in READING_CODE:
        path = top[package] / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            hashed.update(file.read_bytes())
    return hashed.hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """Return the content of an index; an empty dict for one that is missing, damaged, or of other code."""
    try:
        checksum, _, content = path.read_text(encoding="utf-8").partition("\n")
        content = content.rstrip("\n")
        if hashlib.sha256(content.encode()).hexdigest() != checksum:
            return {}
        found = mapping(json.loads(content))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if found.get("code") == code_hash() else {}
