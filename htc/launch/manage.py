"""Cancel and retry launched runs."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from htc.errors import UserError
from htc.launch.locks import locked
from htc.launch.plan_report import status_command
from htc.launch.slurm import cancel_jobs
from htc.launch.status.states import LIVE, RunState, sweep_states
from htc.launch.submission import Row, Submission, launch_lock, supervisor_lock
from htc.launch.submit import submit
from htc.launch.wait import wait_for_runs
from htc.runs.folder import RunFolder, now


def cancel(folder: Path, names: Sequence[str]) -> None:
    """Remove runs from the queue and stop running ones after they save their state. Raises UserError if Slurm fails."""
    with _launch_locked(folder):
        states = _states(folder, names)
        chosen = [state for state in states if state.state in LIVE and state.submission is not None]
        for state in chosen:
            assert state.submission is not None and state.index is not None
            run = RunFolder(state.folder)
            launch = run.read().launch or state.submission.launch_record(state.submission.row(state.index))
            run.update(launch=replace(launch, cancelled=now()))
        in_slurm = [state for state in chosen if state.submission and state.submission.launcher == "slurm"]
        # scancel sends SIGTERM first, on which a run saves its state.
        cancel_jobs([state.job_id for state in in_slurm if state.job_id])
        for state in chosen:
            if state not in in_slurm:
                # The supervisor, on any host, stops the run when it reads that it is no longer the owner.
                owner = supervisor_lock(folder, state.name).with_suffix(".owner")
                owner.parent.mkdir(parents=True, exist_ok=True)
                owner.write_text("cancelled")
    by_hand = [state.name for state in states if state.state in LIVE and state.submission is None]
    if by_hand:
        print(f"started by hand, so stop them where they run: {', '.join(by_hand)}", file=sys.stderr)
    print(f"{folder.name}: {len(chosen)} cancelled. `{status_command(folder, 'retry')}` starts them again.")


def retry(folder: Path, names: Sequence[str]) -> None:
    """Start runs again that failed, were cancelled or got lost: with their launcher and options and the present code.

    Exits with 1 if a run fails while this waits for it. Raises UserError, and starts nothing, if another user wrote the
    options, or if a run leads out of the sweep's folder.
    """
    with _launch_locked(folder):
        chosen = [state for state in _states(folder, names) if not state.is_live and state.state != "done"]
        before = {state.submission.path: state.submission for state in chosen if state.submission is not None}
        rows: dict[Path, list[Row]] = defaultdict(list)
        for state in chosen:
            if state.submission is not None:
                rows[state.submission.path].append(_row(folder, state.submission, state.name))
        submissions = []
        for path, of_path in rows.items():
            submissions += submit(folder, of_path, before[path].launcher, before[path].options)
    by_hand = [state.name for state in chosen if state.submission is None]
    if by_hand:
        print(f"started by hand, so start them by the command in run.json: {', '.join(by_hand)}", file=sys.stderr)
    print(f"{folder.name}: {sum(len(each.runs) for each in submissions)} started again.")
    for submission in submissions:
        if wait_for_runs(folder, [submission], submission.runs, submission.options):
            sys.exit(1)


def _row(folder: Path, submission: Submission, name: str) -> Row:
    """Return the row of a run that is to be started again.

    Raises UserError if it is not safe to start: its content becomes commands of the user who retries.
    """
    try:
        for file in (submission.path / "submission.json", submission.path / "rows.jsonl"):
            if file.stat().st_uid != os.geteuid():
                raise UserError(
                    f"{file} belongs to another user, whose options would become your commands: launch {folder.name} "
                    "with your own options, which starts what is missing."
                )
        row = submission.row(submission.positions[name])
        place = Path(row.config["runs"]) / row.config["sweep"]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise UserError(f"{submission.path} cannot be read: launch {folder.name} again.") from None
    if row.folder != name or place.resolve() != folder.resolve():
        raise UserError(
            f"{name} was launched as {place / row.folder}, not as {folder / name}: retry it in the folder where it was "
            f"launched, or launch it again with runs={folder.parent}."
        )
    return row


def _launch_locked(folder: Path) -> AbstractContextManager[None]:
    return locked(launch_lock(folder), f"{folder} is being launched by another process: waiting.")


def _states(folder: Path, names: Sequence[str]) -> list[RunState]:
    found, _ = sweep_states(folder, need_slurm=True)
    return [state for state in found if state.name in set(names)]
