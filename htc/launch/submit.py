"""Launch a sweep: start the runs that are missing, and no others."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from htc.config.schema import Config
from htc.errors import UserError
from htc.launch.code_snapshot import freeze_code
from htc.launch.job.supervisor import RunJob
from htc.launch.local import LocalManager
from htc.launch.locks import locked
from htc.launch.plan import plan, signature_of, sweep_folder_of
from htc.launch.plan_report import launch_report
from htc.launch.slurm import array_limit, minutes, submit_array
from htc.launch.status.states import sweep_states
from htc.launch.submission import Row, Submission, code_folder, launch_lock, new_submission_path
from htc.launch.wait import wait_for_runs
from htc.runs.folder import RunFolder
from htc.runs.record import RunRecord


def launch(rows: Sequence[tuple[Config, list[str]]], launcher: str, options: Mapping[str, Any]) -> list[str]:
    """Start the runs of the rows that are missing, and wait for them if the option `wait` is set.

    Args:
        rows: Configuration and overrides of each run.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.

    Returns:
        The names of the runs that failed while this waited for them.

    Raises:
        UserError: The runs cannot be started.
    """
    failed: list[str] = []
    folders = list(dict.fromkeys(sweep_folder_of(config) for config, _ in rows))
    for folder in folders:
        chosen = [(config, overrides) for config, overrides in rows if sweep_folder_of(config) == folder]
        with locked(launch_lock(folder), f"{folder} is being launched by another process: waiting."):
            found, _ = sweep_states(folder, need_slurm=True)
            states = {folder: {state.name: state for state in found}}
            planned = plan(chosen, states)
            missing = [each for each in planned if each.action != "leave"]
            submissions = submit(folder, [each.row for each in missing], launcher, options) if missing else []
        print(launch_report(folder, planned, submissions, len(chosen)), flush=True)
        failed += wait_for_runs(folder, submissions, [each.row.folder for each in planned], options)
    return failed


def submit(folder: Path, rows: list[Row], launcher: str, options: Mapping[str, Any]) -> list[Submission]:
    """Record the runs as queued, hand them to the launcher, and return the submissions: one per job array.

    Args:
        folder: Folder of the sweep.
        rows: Runs to start.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.

    Raises:
        UserError: The launcher refuses the runs, or a file cannot be written.
    """
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
    # Written before the jobs are submitted, so that they are found by their name if this process dies in between.
    submission.write()
    undo = [_queue(folder, submission, row) for row in rows]
    try:
        if launcher == "slurm":
            jobs = [RunJob(submission.path, index) for index in range(len(rows))]
            variables = (f"{name}={shlex.quote(value)}" for name, value in submission.code_environment.items())
            setup = [f"export {' '.join(variables)}"]
            submission.jobs = list(submit_array(jobs, submission.path, submission.job_name, options, setup))
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


def _queue(folder: Path, submission: Submission, row: Row) -> Callable[[], None]:
    """Record a run as queued, and return a function that undoes this."""
    run = RunFolder(folder / row.folder)
    existed, before = run.path.is_dir(), run.read(strict=True)
    launch = submission.launch_record(row)
    if before.launch is not None:
        launch.failures = before.launch.failures
    queued = replace(before, status="queued", error=None, end=None, launch=launch)
    if not before.start:
        # A run writes its identity when it starts. Until then, tables and status read it from here.
        signature = signature_of(row.folder)
        queued = replace(queued, name=row.config["name"], sweep=row.config["sweep"], signature=signature)
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
