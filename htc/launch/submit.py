"""Launching a sweep: find out what is missing, and start that alone."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from htc.config.schema import Config
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from htc.launch.code_snapshot import freeze_code
from htc.launch.job.supervisor import RunJob, python_path
from htc.launch.local import LocalManager
from htc.launch.locks import locked
from htc.launch.slurm import array_limit, minutes, submit_array
from htc.launch.status.reports import launch_report
from htc.launch.status.states import RunState, sweep_states
from htc.launch.submission import Row, Submission, code_folder, launch_lock, new_submission_path
from htc.launch.wait import follow
from htc.runs.folder import RunFolder, find_folder, folder_name, now
from htc.runs.json_values import mapping


@dataclass
class PlannedRun:
    """One run that was asked for, and how it stands."""

    row: Row
    sweep_folder: Path
    state: str
    """As in htc.launch.status.states, or `new`."""

    @property
    def action(self) -> str:
        """`leave`, `start` or `resume`."""
        if self.state in ("done", "running", "queued", "unknown"):
            return "leave"
        has_checkpoint = any((self.sweep_folder / self.row.folder / "checkpoints").glob("step_*.pt"))
        return "resume" if has_checkpoint else "start"


def plan(rows: Sequence[tuple[Config, list[str]]], states: Mapping[Path, Mapping[str, RunState]]) -> list[PlannedRun]:
    """What is to be done for each row; rows that are one and the same run appear once."""
    marks = {folder: {signature_of(name) for name in of_folder} for folder, of_folder in states.items()}
    planned: dict[Path, PlannedRun] = {}
    for config, overrides in rows:
        folder = sweep_folder_of(config)
        mark = signature(config)
        # Only a signature that is there already is looked for on disk: 1,000 searches through 1,000 folders take long.
        known = mark in marks.get(folder, ()) or config.force
        path = find_folder(config)[0] if known else folder / folder_name(config, mark)
        state = states.get(folder, {}).get(path.name)
        row = Row(path.name, to_plain(config), overrides)
        planned.setdefault(path, PlannedRun(row, folder, state.state if state else "new"))
    return list(planned.values())


def signature_of(folder_name: str) -> str:
    """The signature at the end of a run folder's name."""
    found = re.search(r"-([0-9a-f]{8})(-r\d+)?$", folder_name)
    return found[1] if found else ""


def sweep_folder_of(config: Config) -> Path:
    return Path(config.runs) / config.sweep


def launch(
    rows: Sequence[tuple[Config, list[str]]], launcher: str, options: Mapping[str, Any]
) -> tuple[list[PlannedRun], list[str]]:
    """Start what is missing of the rows -> the plan, and the names of the runs that failed while it waited.

    Raises UserError where nothing can be started.
    """
    failed: list[str] = []
    plans: list[PlannedRun] = []
    folders = list(dict.fromkeys(sweep_folder_of(config) for config, _ in rows))
    for folder in folders:
        chosen = [(config, overrides) for config, overrides in rows if sweep_folder_of(config) == folder]
        with locked(launch_lock(folder), f"{folder} is being launched by somebody else: waiting."):
            found, _ = sweep_states(folder, need_slurm=True)
            states = {folder: {state.name: state for state in found}}
            planned = plan(chosen, states)
            missing = [each for each in planned if each.action != "leave"]
            submissions = submit(folder, [each.row for each in missing], launcher, options) if missing else []
        print(launch_report(folder, planned, submissions, len(chosen)), flush=True)
        plans += planned
        failed += follow(folder, submissions, [each.row.folder for each in planned], options)
    return plans, failed


def submit(folder: Path, rows: list[Row], launcher: str, options: Mapping[str, Any]) -> list[Submission]:
    """Record the runs as queued and hand them to the launcher -> their submissions, one an array."""
    settings = dict(options)
    limit = len(rows)
    if launcher == "slurm":
        settings["minutes"] = minutes(settings["time"])
        limit = array_limit()
    try:
        code = freeze_code(code_folder(folder))
        return [
            _submit(folder, rows[start : start + limit], launcher, settings, code)
            for start in range(0, len(rows), limit)
        ]
    except OSError as error:
        place = error.filename or folder
        raise UserError(
            f"{place} could not be written ({error.strerror}): make room or make the folder writable, and launch again."
        ) from None


def _submit(folder: Path, rows: list[Row], launcher: str, options: dict[str, Any], code: Path) -> Submission:
    path = new_submission_path(folder)
    submission = Submission(
        path.name, launcher, options, str(code.absolute()), str(Path.cwd()), [row.folder for row in rows],
        [None] * len(rows), path=path.absolute(),
    )  # fmt: skip
    submission.write_rows(rows)
    # Before Slurm hears of it: should this process die in between, the jobs are found by their name.
    submission.write()
    undo = [_queue(folder, submission, row) for row in rows]
    try:
        if launcher == "slurm":
            jobs = [RunJob(submission.path, index) for index in range(len(rows))]
            setup = [f"export PYTHONPATH={shlex.quote(python_path(submission.code))} PYTHONSAFEPATH=1"]
            submission.jobs = list(submit_array(jobs, submission.path, submission.job_name, options, setup))
            submission.write()
        else:
            LocalManager(submission)
    except UserError:
        for restore in undo:
            restore()
        shutil.rmtree(path, ignore_errors=True)
        raise
    return submission


def _queue(folder: Path, submission: Submission, row: Row) -> Callable[[], None]:
    """Record a run as queued -> what takes that back."""
    run = RunFolder(folder / row.folder)
    existed, before = run.path.is_dir(), run.read()
    identity = {key: row.config[key] for key in ("name", "sweep")}
    schedule = row.config["schedule"]
    launch = {
        **{key: value for key, value in mapping(before.get("launch")).items() if key != "cancelled"},
        "submission": submission.id,
        "launcher": submission.launcher,
        "submitted": now(),
        "code": submission.code,
        "length": {key: schedule[key] for key in ("epochs", "iterations", "batch_size")},
    }
    # What a run that is not there yet will write itself; until then, tables and status read this.
    new = {} if before.get("start") else {**identity, "signature": signature_of(row.folder)}
    run.path.mkdir(parents=True, exist_ok=True)
    run.update(**new, status="queued", error=None, end=None, launch=launch)

    def restore() -> None:
        if before:
            run.update(**{key: before.get(key) for key in ("status", "error", "end", "launch")})
        elif existed:
            run.run_file.unlink(missing_ok=True)
        else:
            shutil.rmtree(run.path, ignore_errors=True)

    return restore
