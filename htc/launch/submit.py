"""Launch runs: start those that are missing, and no others."""

from __future__ import annotations

import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from htc.config.signature import identity
from htc.errors import UserError
from htc.launch.batch_script import TEARDOWN, setup_lines
from htc.launch.code_snapshot import code_remarks, freeze_code
from htc.launch.job.shared_job import SharedJob
from htc.launch.job.supervisor import RunJob
from htc.launch.local import LocalManager
from htc.launch.plan import LEAVE_STATES, PlannedRun, RequestedRun, plan
from htc.launch.plan_report import launch_report
from htc.launch.sbatch import minutes, with_sbatch_options, words
from htc.launch.slurm import array_limit
from htc.launch.status.states import run_states
from htc.launch.submission import Row, Submission, code_folder, new_submission_path
from htc.launch.submit_array import submit_array
from htc.launch.wait import wait_for_runs
from htc.runs.file_lock import locked
from htc.runs.folder import RunFolder
from htc.runs.pool import SelectedRun, change_rows, launch_lock, signature_of, sweep_folder
from htc.runs.record import RunRecord


def launch(
    requests: Sequence[RequestedRun], launcher: str, options: Mapping[str, Any], *, record: bool = True
) -> list[str]:
    """Start the requested runs that are missing, and wait for them if the option `wait` is set.

    Args:
        requests: What is asked for.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.
        record: Add the rows to their sweeps.

    Returns:
        The names of the runs that failed while this waited for them.

    Raises:
        UserError: The runs cannot be started.
    """
    failed: list[str] = []
    for pool in dict.fromkeys(request.pool for request in requests):
        chosen = [request for request in requests if request.pool == pool]
        with locked(launch_lock(pool), f"{pool} is being launched into by another process: waiting."):
            planned = plan(pool, chosen, need_slurm=True)
            if record:
                record_rows(pool, planned)
            submissions: list[Submission] = []
            try:
                submit_missing(pool, planned, launcher, options, submissions)
            except UserError as error:
                if not submissions:
                    raise
                print(launch_report(planned, submissions, len(chosen)), flush=True)
                raise UserError(
                    f"{error.sentence} {sum(len(each.runs) for each in submissions)} runs were submitted before, as "
                    "shown above, and stay in the queue: launch the rest again when this is settled."
                ) from None
        print(launch_report(planned, submissions, len(chosen)), flush=True)
        if any(submission.launcher == "slurm" for submission in submissions):
            print("".join(f"note: {remark}\n" for remark in code_remarks()), end="", flush=True)
        rows = [SelectedRun(each.row.folder, evaluation=each.row.evaluation) for each in planned]
        failed += wait_for_runs(pool, submissions, rows, options)
    return failed


def record_rows(pool: Path, planned: Sequence[PlannedRun]) -> None:
    """Add the rows to their sweeps.

    A row replaces the one of the same label and arguments that was corrected, unless that one's run is done or under
    way: it failed, or was never run. Raises UserError where a sweep's folder cannot be written.
    """
    by_sweep: dict[str, list[SelectedRun]] = defaultdict(list)
    for each in planned:
        for request in each.requests:
            by_sweep[request.sweep].append(each.selected(request))

    def change(existing: list[SelectedRun], added: list[SelectedRun]) -> list[SelectedRun]:
        same = {(row.label, row.run, row.evaluation) for row in added}
        corrected = {(row.label, *sorted(row.given)) for row in added if row.label is not None}
        candidates = [
            row
            for row in existing
            if (row.label, *sorted(row.given)) in corrected and (row.label, row.run, row.evaluation) not in same
        ]
        states, _ = run_states(pool, candidates)
        outdated = [state.row for state in states if state.state not in (*LEAVE_STATES, "trained")]
        dropped = {id(row) for row in outdated}
        kept = [row for row in existing if (row.label, row.run, row.evaluation) not in same and id(row) not in dropped]
        return kept + added

    for sweep, rows in by_sweep.items():
        change_rows(pool, sweep, lambda existing, rows=rows: change(existing, rows))  # type: ignore[misc]


def submit_missing(
    pool: Path,
    planned: Sequence[PlannedRun],
    launcher: str,
    options: Mapping[str, Any],
    submissions: list[Submission],
) -> None:
    """Submit the runs of a plan that are to be started, by sweep and by the launcher options of their rows.

    Args:
        pool: Folder of all runs.
        planned: Runs of the plan.
        launcher: `slurm` or `local`.
        options: The launcher's options; those of a row replace them.
        submissions: What was submitted is added to this list, also if the launcher refuses the rest.

    Raises:
        UserError: The launcher refuses runs, or a file cannot be written.
    """
    groups: dict[str, list[PlannedRun]] = defaultdict(list)
    for each in planned:
        if each.action != "leave":
            groups[repr((each.sweep, sorted(each.requests[0].launcher.items())))].append(each)
    for group in groups.values():
        of_rows = {**options, **group[0].requests[0].launcher}
        submit(pool, group[0].sweep, [each.row for each in group], launcher, of_rows, submissions)


def submit(
    pool: Path,
    sweep: str,
    rows: list[Row],
    launcher: str,
    options: Mapping[str, Any],
    submissions: list[Submission],
) -> None:
    """Record the runs as queued, and hand them to the launcher: with Slurm, as job arrays.

    Args:
        pool: Folder of all runs.
        sweep: Name of the sweep.
        rows: Runs to start.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.
        submissions: What was submitted is added to this list, also if the launcher refuses the rest.

    Raises:
        UserError: The launcher refuses runs, or a file cannot be written.
    """
    settings = dict(options)
    limit = len(rows)
    if launcher == "slurm":
        settings["minutes"] = minutes(with_sbatch_options(settings)["time"])
        # Jobs that share all runs are one array.
        limit = limit if settings.get("submit_limit") else array_limit()
    launch_id = submissions[0].launch if submissions else uuid.uuid4().hex[:8]
    try:
        folder = sweep_folder(pool, sweep)
        code = freeze_code(code_folder(folder))
        for start in range(0, len(rows), limit):
            submissions.append(_submit(folder, rows[start : start + limit], launcher, settings, code, launch_id))
    except OSError as error:
        place = error.filename or pool
        raise UserError(
            f"{place} could not be written ({error.strerror}): make room or make the folder writable, and launch again."
        ) from None


def _submit(
    folder: Path, rows: list[Row], launcher: str, options: dict[str, Any], code: Path, launch_id: str
) -> Submission:
    path = new_submission_path(folder)
    number = min(options.get("submit_limit") or len(rows), len(rows))
    submission = Submission(
        path.name, launcher, options, str(code.absolute()), str(Path.cwd()), [row.folder for row in rows],
        [None] * number, launch_id, path=path.absolute(),
    )  # fmt: skip
    submission.write_rows(rows)
    # Written before the jobs are submitted, so that they are found by their comment if this process dies in between.
    submission.write()
    undo = [_queue(submission, row) for row in rows]
    try:
        if launcher == "slurm":
            submission.jobs = list(_submit_jobs(submission, rows))
            submission.write()
        else:
            # Refuses options that this machine cannot satisfy; `wait_for_runs` starts the runs.
            LocalManager(submission)
    except UserError:
        for restore in undo:
            restore()
        shutil.rmtree(path, ignore_errors=True)
        raise
    return submission


def _submit_jobs(submission: Submission, rows: Sequence[Row]) -> list[str]:
    """Submit the jobs of a submission to Slurm, and return their ids. Raises UserError where Slurm refuses them."""
    options = with_sbatch_options(submission.options)
    number = len(submission.jobs)
    job = SharedJob if submission.is_shared else RunJob
    name = f"{submission.sweep}/{rows[0].label or rows[0].folder}" if len(rows) == 1 else submission.sweep
    setup = setup_lines(
        submission.path, submission.code_environment, words(options.get("setup")),
        submission.stop_file if options.get("fail_fast") else None,
    )  # fmt: skip
    return submit_array(
        [job(submission.path, index) for index in range(number)], submission.path, options, name=name,
        comment=submission.comment, setup=setup, teardown=TEARDOWN,
    )  # fmt: skip


def _queue(submission: Submission, row: Row) -> Callable[[], None]:
    """Record a run as queued, and return a function that undoes this."""
    run = RunFolder(submission.pool / row.folder)
    existed, before = run.path.is_dir(), run.read(strict=True)
    launch = submission.launch_record(row)
    if before.launch is not None:
        launch.failures = before.launch.failures
    queued = replace(before, error=None, launch=launch)
    if before.status != "done":
        # A trained run, which is only evaluated, stays done.
        queued = replace(queued, status="queued", end=None)
    if not before.start:
        # A run writes its identity when it starts. Until then, tables and status read it from here.
        signature, settings = signature_of(row.folder), identity(row.config)
        queued = replace(queued, name=row.config["name"], signature=signature, identity=settings)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write(queued)

    def restore() -> None:
        if before != RunRecord():
            run.update(status=before.status, error=before.error, end=before.end, launch=before.launch)
        elif existed:
            run.run_file.unlink(missing_ok=True)
        else:
            shutil.rmtree(run.path, ignore_errors=True)

    return restore
