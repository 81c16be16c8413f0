"""The pool of all runs, `runs/`, and the sweeps that select runs from it.

A sweep is `runs/.sweeps/<sweep>/`: `sweep.json` with its rows, its submissions, and the code that its jobs run. A run
may belong to many sweeps, so nothing in a run's folder depends on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from htc.config.schema import EvalConfig
from htc.runs.evaluations import is_evaluation_name
from htc.runs.file_lock import locked
from htc.runs.files import read_object, write_json
from htc.runs.json_values import items, mapping, text

SWEEPS_FOLDER = ".sweeps"
SWEEP_FILE = "sweep.json"
SEARCH_FILE = "search.json"
LOCKS_FOLDER = ".locks"
UNNAMED = "unnamed"
"""Sweep of the launched runs that name none."""


@dataclass
class SelectedRun:
    """A row of a sweep: a run, and why the sweep selects it."""

    run: str
    """Name of the run's folder."""
    label: str | None = None
    """Label of the row in the sweep's file; None for a run that was given on the command line alone."""
    evaluation: str | None = EvalConfig.name
    """Name of the evaluation that the row asks for; None for any."""
    overrides: list[str] = field(default_factory=list)
    """Arguments of `python -m htc.run` that start the run."""
    launcher: dict[str, Any] = field(default_factory=dict)
    """Options of the launcher for this row alone."""
    given: list[str] = field(default_factory=list)
    """Those overrides that are not the row's own, but parameters and arguments of the command line."""

    @classmethod
    def from_json(cls, value: Any) -> SelectedRun | None:
        """Read a row; None for a value that is none."""
        found = mapping(value)
        run = found.get("run")
        if not isinstance(run, str) or not is_run_name(run):
            return None
        return cls(
            run,
            text(found.get("label")),
            name if is_evaluation_name(name := found.get("evaluation")) else EvalConfig.name,
            [each for each in items(found.get("overrides")) if isinstance(each, str)],
            mapping(found.get("launcher")),
            [each for each in items(found.get("given")) if isinstance(each, str)],
        )


def is_run_name(name: Any) -> bool:
    """Return whether a value can be the name of a run's folder."""
    # Other users may write these files, so a name must not lead out of the folder of runs.
    return isinstance(name, str) and "/" not in name and "\0" not in name and not name.startswith(".") and name != ""


def sweep_folder(pool: Path, sweep: str) -> Path:
    """Return the folder of a sweep, which need not exist."""
    return pool / SWEEPS_FOLDER / sweep


def sweep_names(pool: Path) -> list[str]:
    """Return the names of the sweeps of a pool."""
    try:
        return sorted(entry.name for entry in os.scandir(pool / SWEEPS_FOLDER) if entry.is_dir())
    except OSError:
        return []


def run_names(pool: Path) -> Iterator[str]:
    """Yield the names of the run folders of a pool: those that hold a run.json."""
    try:
        entries = list(os.scandir(pool))
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and Path(entry.path, "run.json").exists():
            yield entry.name


def signature_of(folder_name: str) -> str:
    """Return the signature at the end of a run folder's name; empty if there is none."""
    found = re.search(r"-([0-9a-f]{8})(-r\d+)?$", folder_name)
    return found[1] if found else ""


def all_rows(pool: Path) -> list[tuple[str | None, SelectedRun]]:
    """Return every row of every sweep with the sweep's name, and the runs that belong to no sweep with None."""
    rows: list[tuple[str | None, SelectedRun]] = [
        (sweep, row) for sweep in sweep_names(pool) for row in read_rows(pool, sweep)
    ]
    selected = {row.run for _, row in rows}
    alone = sorted(name for name in run_names(pool) if name not in selected)
    return rows + [(None, SelectedRun(name, evaluation=None)) for name in alone]


def read_rows(pool: Path, sweep: str) -> list[SelectedRun]:
    """Return the rows of a sweep, without those that cannot be read."""
    try:
        content = read_object(sweep_folder(pool, sweep) / SWEEP_FILE)
    except OSError:
        return []
    return [row for value in items(content.get("rows")) if (row := SelectedRun.from_json(value)) is not None]


def change_rows(pool: Path, sweep: str, change: Callable[[list[SelectedRun]], list[SelectedRun]]) -> None:
    """Replace the rows of a sweep by `change(rows)`, without losing the changes of another process.

    Raises UserError where the sweep's folder cannot be written.
    """
    with locked(pool / LOCKS_FOLDER / "sweeps.lock", f"the sweeps of {pool} are being changed: waiting."):
        rows = change(read_rows(pool, sweep))
        write_json(sweep_folder(pool, sweep) / SWEEP_FILE, {"rows": [asdict(row) for row in rows]})


def launch_lock(pool: Path) -> Path:
    """Return the path of the lock that a process holds while it launches, cancels or retries runs of the pool."""
    return pool / LOCKS_FOLDER / "launch.lock"


def supervisor_lock(pool: Path, run: str) -> Path:
    """Return the path of the lock that a run's supervisor holds, and the run's process with it."""
    return pool / LOCKS_FOLDER / f"{run}.lock"
