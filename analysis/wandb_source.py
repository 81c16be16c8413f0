"""Runs from wandb in place of run folders: from a project on the server, or from the files of offline runs.

A run logs the files that tables read (`htc.runs.wandb_record`). They are written as a pool of runs into a temporary
folder, so tables from wandb are made by the code that makes them from run folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.runs import parse_time
from analysis.wandb_log import DamagedLogError, read_run_log
from analysis.wandb_server import read_project
from htc.errors import UserError
from htc.runs.evaluations import EVALUATIONS_FOLDER, RESULTS_FILE, is_evaluation_name
from htc.runs.json_values import items, mapping, text
from htc.runs.pool import SEARCH_FILE, SWEEP_FILE, SWEEPS_FOLDER, is_run_name
from htc.runs.wandb_record import FILES_KEY, RECORD_KEY

ONLINE, OFFLINE = "wandb:", "offline:"
STATES = {
    "finished": "done", "pending": "queued", "running": "running", "preempting": "preempted", "preempted": "preempted",
}  # fmt: skip
"""Status of a run that did not live to log one, by wandb's state; any other state is `failed`."""


@dataclass
class TrackedRun:
    """A run at wandb."""

    place: str
    """Where it was found, for messages."""
    id: str
    state: str
    """wandb's own state."""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the run's folder; empty for a run that did not log a usable one."""
        name = mapping(self.config.get(RECORD_KEY)).get("folder")
        return name if isinstance(name, str) and is_run_name(name) else ""

    @property
    def files(self) -> dict[str, str]:
        """Texts of the run's files, by their paths in its folder."""
        logged = {
            **mapping(mapping(self.config.get(RECORD_KEY)).get(FILES_KEY)),
            **mapping(self.summary.get(FILES_KEY)),
        }
        found = {path: content for path, content in logged.items() if isinstance(content, str)}
        if "run.json" not in found:
            start = mapping(self.config.get(RECORD_KEY)).get("start")
            found["run.json"] = json.dumps({"status": STATES.get(self.state, "failed"), "start": start})
        return found

    @property
    def updated(self) -> datetime:
        """Time of the end, or of the start where there is no end."""
        record = mapping(self.config.get(RECORD_KEY))
        return parse_time(text(self.summary.get("end")) or text(record.get("start")))


@contextlib.contextmanager
def pool_from(source: str) -> Iterator[Path]:
    """Yield the path of a pool with the runs of a source, relative to the current folder, which changes meanwhile.

    The path looks like the source, so that messages and tables name it. A sentence for each run that is skipped, and
    their number, are printed on standard error.

    Args:
        source: `wandb:ENTITY/PROJECT`, or `offline:FOLDER` with .wandb files at any depth.

    Raises:
        UserError: for any other source, or one that cannot be read.
    """
    runs, complaints, total = read_source(source)
    unknown = [run for run in runs if not run.folder]
    complaints += [f"skipped {run.place}: it is of another program or an older version." for run in unknown]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        print(f"{len(complaints)} of {total} runs of {source} were skipped.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        pool = Path(source.rstrip("/"))
        write_pool([run for run in runs if run.folder], pool)
        yield pool


def read_source(source: str) -> tuple[list[TrackedRun], list[str], int]:
    """Return the runs of a source, a sentence for each that cannot be read, and the number of both.

    Raises UserError for a source that cannot be read.
    """
    if source.startswith(ONLINE):
        runs = [TrackedRun(*values) for values in read_project(source.removeprefix(ONLINE))]
        return runs, [], len(runs)
    if source.startswith(OFFLINE):
        runs, complaints = read_offline(Path(source.removeprefix(OFFLINE)))
        return runs, complaints, len(runs) + len(complaints)
    raise UserError(
        f"from={source} is no source of runs: use from=wandb:ENTITY/PROJECT, or from=offline:FOLDER for .wandb files."
    )


def read_offline(root: Path) -> tuple[list[TrackedRun], list[str]]:
    """Return the offline runs at any depth below a folder, and a sentence for each damaged file.

    Of several files of one run, the newest is used: it has the complete history.

    Raises UserError for a missing folder, one without offline runs, and where wandb is not installed.
    """
    if not root.is_dir():
        raise UserError(f"from=offline:{root} is not a folder: name one that holds offline-run-*/run-*.wandb.")
    files = list(offline_logs(root))
    if not files:
        raise UserError(f"from=offline:{root} has no offline-run-*/*.wandb: runs with wandb.mode=offline write them.")
    runs: dict[str, TrackedRun] = {}
    complaints = []
    for file in sorted(files, key=lambda file: file.parent.name):
        try:
            logged = read_run_log(file)
        except DamagedLogError as reason:
            complaints.append(f"skipped {file}: {reason}.")
        except ImportError as error:
            given = f"from=offline:{root}"
            raise UserError(f"{given} needs wandb, which is not installed: pip install wandb.") from error
        else:
            state = "running" if logged.exit_code is None else "failed" if logged.exit_code else "finished"
            runs[logged.id] = TrackedRun(str(file), logged.id, state, logged.config, logged.summary)
    return list(runs.values()), complaints


def offline_logs(root: Path) -> Iterator[Path]:
    """Yield the .wandb files of the offline runs below a folder; links are not followed."""
    for path, folders, names in os.walk(root):
        folders.sort()
        if Path(path).name.startswith("offline-run-"):
            folders.clear()
            yield from (Path(path, name) for name in sorted(names) if name.endswith(".wandb"))


def write_pool(runs: list[TrackedRun], pool: Path) -> None:
    """Write the run folders of tracked runs, and the sweeps that select them, below an empty folder.

    Where two runs have one folder's name, as when two people run one configuration, the newest keeps it, and the others
    are named after their ids. Names and paths come from the server: those that would lead out of the pool are left out.
    """
    pool.mkdir(parents=True)
    newest_first = sorted(runs, key=lambda run: (run.updated, run.id), reverse=True)
    sweeps: dict[str, dict[str, Any]] = {}
    searches: dict[str, str] = {}
    """The search.json of the newest trial of each search."""
    for run in newest_first:
        name = run.folder
        while (pool / name).exists():
            name = f"{run.folder}@{run.id if is_run_name(run.id) else 'other'}" if name == run.folder else f"{name}+"
        (pool / name).mkdir()
        for path, content in run.files.items():
            folder, _, file = path.rpartition("/")
            parent, _, part = folder.rpartition("/")
            if parent == SWEEPS_FOLDER and file == SWEEP_FILE and is_run_name(part):
                rows = sweeps.setdefault(part, {})
                for row in _rows_of(content):
                    # Rows of the newest run are first, and those that only older ones know come after them.
                    rows.setdefault(json.dumps([row.get("run"), row.get("label")]), row)
            elif parent == SWEEPS_FOLDER and file == SEARCH_FILE and is_run_name(part):
                searches.setdefault(part, content)
            elif path in ("config.yaml", "run.json") or (
                parent == EVALUATIONS_FOLDER and file == RESULTS_FILE and is_evaluation_name(part)
            ):
                target = pool / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
    for sweep, by_key in sweeps.items():
        target = pool / SWEEPS_FOLDER / sweep / SWEEP_FILE
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps({"rows": list(by_key.values())}), encoding="utf-8")
        if sweep in searches:
            target.with_name(SEARCH_FILE).write_text(searches[sweep], encoding="utf-8")


def _rows_of(content: str) -> list[dict[str, Any]]:
    """Return the rows in the text of a sweep.json."""
    try:
        return [mapping(row) for row in items(mapping(json.loads(content)).get("rows"))]
    except (ValueError, RecursionError):
        return []
