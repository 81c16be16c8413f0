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
from htc.launch.plan_report import status_command
from htc.launch.slurm import cancel_jobs
from htc.launch.status.states import LIVE, RunState, run_states
from htc.launch.submission import Row, Submission
from htc.launch.submit import submit
from htc.launch.wait import wait_for_runs
from htc.runs.file_lock import locked
from htc.runs.folder import RunFolder, now
from htc.runs.pool import SelectedRun, launch_lock, supervisor_lock


def cancel(pool: Path, rows: Sequence[SelectedRun], what: str) -> None:
    """Remove runs from the queue and stop running ones after they save their state.

    Args:
        pool: Folder of all runs.
        rows: Runs to cancel.
        what: How the user named them, for the hint.

    Raises:
        UserError: Slurm fails.
    """
    with _launch_locked(pool):
        states = _unique(run_states(pool, rows, need_slurm=True)[0])
        chosen = [state for state in states if state.state in LIVE and state.submission is not None]
        for state in chosen:
            assert state.submission is not None and state.index is not None
            run = RunFolder(state.folder)
            launch = run.read().launch or state.submission.launch_record(state.submission.row(state.index))
            run.update(launch=replace(launch, cancelled=now()))
        own_job = [state for state in chosen if state.submission and _has_own_job(state.submission)]
        # scancel sends SIGTERM first, on which a run saves its state.
        cancel_jobs([state.job_id for state in own_job if state.job_id])
        for state in chosen:
            if state not in own_job:
                # The supervisor, on any host, stops the run when it reads that it is no longer the owner.
                owner = supervisor_lock(pool, state.name).with_suffix(".owner")
                owner.parent.mkdir(parents=True, exist_ok=True)
                owner.write_text("cancelled")
        _cancel_needless_jobs(chosen)
    by_hand = [state.name for state in states if state.state in LIVE and state.submission is None]
    if by_hand:
        print(f"started by hand, so stop them where they run: {', '.join(by_hand)}", file=sys.stderr)
    print(f"{what}: {len(chosen)} cancelled. `{status_command(pool, 'retry', what)}` starts them again.")


def _has_own_job(submission: Submission) -> bool:
    return submission.launcher == "slurm" and not submission.is_shared


def _cancel_needless_jobs(cancelled: Sequence[RunState]) -> None:
    """Cancel the jobs that share runs of which none is left."""
    shared = {each.submission.path: each.submission for each in cancelled if each.submission is not None}
    for submission in shared.values():
        if not submission.is_shared:
            continue
        records = [RunFolder(submission.pool / run).read() for run in submission.runs]
        left = [record for record in records if record.status not in ("done", "failed")]
        if not any(submission.may_start(record) for record in left):
            cancel_jobs([job for job in submission.jobs if job is not None])


def retry(pool: Path, rows: Sequence[SelectedRun], what: str) -> None:
    """Start runs again that failed, were cancelled or got lost: with their launcher and options and the present code.

    Exits with 1 if a run fails while this waits for it.

    Args:
        pool: Folder of all runs.
        rows: Runs to start again.
        what: How the user named them, for the messages.

    Raises:
        UserError: Another user wrote the options, or a run leads out of the folder of runs; nothing is started.
    """
    with _launch_locked(pool):
        states = _unique(run_states(pool, rows, need_slurm=True)[0])
        chosen = [state for state in states if not state.is_live and state.state != "done"]
        before = {state.submission.path: state.submission for state in chosen if state.submission is not None}
        of_path: dict[Path, list[Row]] = defaultdict(list)
        for state in chosen:
            if state.submission is not None:
                of_path[state.submission.path].append(_row(pool, state.submission, state))
        submissions: list[Submission] = []
        for path, again in of_path.items():
            submit(pool, before[path].sweep, again, before[path].launcher, before[path].options, submissions)
    by_hand = [state.name for state in chosen if state.submission is None]
    if by_hand:
        print(f"not launched, so start them by the command in run.json: {', '.join(by_hand)}", file=sys.stderr)
    print(f"{what}: {sum(len(each.runs) for each in submissions)} started again.")
    for submission in submissions:
        started = [state.row for state in chosen if state.row is not None and state.name in submission.positions]
        if wait_for_runs(pool, [submission], started, submission.options):
            sys.exit(1)


def _row(pool: Path, submission: Submission, state: RunState) -> Row:
    """Return the row of a run that is to be started again.

    Raises UserError if it is not safe to start: its content becomes commands of the user who retries.
    """
    name = state.name
    try:
        for file in (submission.path / "submission.json", submission.path / "rows.jsonl"):
            if file.stat().st_uid != os.geteuid():
                raise UserError(
                    f"{file} belongs to another user, whose options would become your commands: launch "
                    f"{submission.sweep} with your own options, which starts what is missing."
                )
        row = submission.row(submission.positions[name])
        place = Path(submission.cwd) / row.config["runs"]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise UserError(f"{submission.path} cannot be read: launch {submission.sweep} again.") from None
    if row.folder != name or place.resolve() != pool.resolve():
        raise UserError(
            f"{name} was launched as {place / row.folder}, not as {pool / name}: retry it in the folder where it was "
            f"launched, or launch it again with runs={pool}."
        )
    return row


def _unique(states: Sequence[RunState]) -> list[RunState]:
    """Return the states of different runs: several rows may select the same one."""
    return list({(state.name, state.state): state for state in states}.values())


def _launch_locked(pool: Path) -> AbstractContextManager[None]:
    return locked(launch_lock(pool), f"{pool} is being launched into by another process: waiting.")
