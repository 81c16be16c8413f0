"""Cancelling and retrying runs that were launched."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from htc.errors import UserError
from htc.launch.locks import locked
from htc.launch.slurm import cancel_jobs
from htc.launch.status.states import LIVE, RunState, sweep_states
from htc.launch.submission import Row, Submission, launch_lock, supervisor_lock
from htc.launch.submit import submit
from htc.launch.wait import wait_for_runs
from htc.runs.folder import RunFolder, now
from htc.runs.json_values import mapping


def cancel(folder: Path, names: Sequence[str]) -> None:
    """Take runs out of the queue and stop those under way, with their state saved. Raises UserError by Slurm's word."""
    with _launch_locked(folder):
        states = _states(folder, names)
        chosen = [state for state in states if state.state in LIVE and state.submission is not None]
        for state in chosen:
            record = RunFolder(state.folder)
            record.update(launch={**mapping(record.read().get("launch")), "cancelled": now()})
        in_slurm = [state for state in chosen if state.submission and state.submission.launcher == "slurm"]
        # The signal that comes with it makes a run save its state.
        cancel_jobs([state.job_id for state in in_slurm if state.job_id])
        for state in chosen:
            if state not in in_slurm:
                # The process that watches over the run stops it when it is no longer its owner, on whichever host.
                owner = supervisor_lock(folder, state.name).with_suffix(".owner")
                owner.parent.mkdir(parents=True, exist_ok=True)
                owner.write_text("cancelled")
    by_hand = [state.name for state in states if state.state in LIVE and state.submission is None]
    if by_hand:
        print(f"started by hand, so stop them where they run: {', '.join(by_hand)}", file=sys.stderr)
    print(f"{folder.name}: {len(chosen)} cancelled. `python -m htc.status retry {folder.name}` starts them again.")


def retry(folder: Path, names: Sequence[str]) -> None:
    """Start again what failed, was cancelled or got lost, each with its launcher and options, and the code of now.

    Raises UserError, and starts nothing, where another user wrote these, or a run leads out of the sweep's folder.
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
    """The row of a run that is to be started again; what it holds becomes commands of whoever retries."""
    try:
        for file in (submission.path / "submission.json", submission.path / "rows.jsonl"):
            if file.stat().st_uid != os.geteuid():
                raise UserError(
                    f"{file} belongs to another user, whose options would become your commands: launch {folder.name} "
                    "with options of your own, which starts what is missing."
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
    return locked(launch_lock(folder), f"{folder} is being launched by somebody else: waiting.")


def _states(folder: Path, names: Sequence[str]) -> list[RunState]:
    found, _ = sweep_states(folder, need_slurm=True)
    return [state for state in found if state.name in set(names)]
