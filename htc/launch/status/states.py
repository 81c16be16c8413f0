"""How the runs of a sweep stand, from what they recorded, what Slurm says, and who holds the locks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.errors import UserError
from htc.launch.locks import is_held
from htc.launch.slurm import Job, query_jobs
from htc.launch.submission import Submission, launch_lock, read_submissions, supervisor_lock
from htc.runs.folder import RunFolder
from htc.runs.json_values import mapping
from htc.runs.lock import is_in_use

STATES = ("running", "queued", "done", "failed", "cancelled", "preempted", "lost", "unknown")
LIVE = ("running", "queued")


@dataclass
class RunState:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    folder: Path
    state: str
    """One of STATES; `unknown` where it is on a Slurm that cannot be asked from here."""
    record: dict[str, Any] = field(default_factory=dict)
    """run.json."""
    job: Job | None = None
    submission: Submission | None = None
    """The newest one that holds it."""

    @property
    def index(self) -> int | None:
        """Its row in the submission."""
        return self.submission.positions[self.name] if self.submission else None

    @property
    def job_id(self) -> str | None:
        if self.submission is not None and (noted := self.submission.jobs[self.index or 0]) is not None:
            return noted
        return self.job.id if self.job else None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE or self.state == "unknown"


def sweep_states(sweep_folder: Path, *, need_slurm: bool = False) -> tuple[list[RunState], str | None]:
    """Every run of a sweep, by name, and a remark where Slurm could not be asked.

    `need_slurm`: raise UserError in that case, as whoever launches must know.
    """
    newest: dict[str, Submission] = {}
    for submission in read_submissions(sweep_folder):
        newest.update(dict.fromkeys(submission.runs, submission))
    names = sorted({*newest, *_folders(sweep_folder)})
    records = {name: RunFolder(sweep_folder / name).read() for name in names}
    # Of what is done, Slurm need not be asked.
    open_in_slurm = {
        newest[name].id: newest[name]
        for name in names
        if name in newest and newest[name].launcher == "slurm" and records[name].get("status") != "done"
    }
    jobs: Mapping[str, Job] | None = {}
    remark = None
    if open_in_slurm:
        try:
            jobs = query_jobs(submission.job_name for submission in open_in_slurm.values())
        except UserError as error:
            if need_slurm:
                raise
            jobs, remark = None, error.sentence
    by_place = {(job.name, _task(job.id)): job for job in (jobs or {}).values()}
    # An array that was cancelled before any of it began is listed as one.
    whole = {job.name: job for job in (jobs or {}).values() if "_" not in job.id}
    # Somebody is about to submit what is not submitted yet; unless it is this process, which knows that it is not.
    launching = not need_slurm and is_held(launch_lock(sweep_folder))
    managed = {each.id: launching or is_held(each.manager_lock) for each in newest.values()}
    states = []
    for name in names:
        submission_of = newest.get(name)
        # By name and place: so they are found even if whoever submitted them died before noting their ids.
        job = None
        if submission_of is not None:
            place = submission_of.job_name, submission_of.positions[name]
            job = by_place.get(place) or whole.get(submission_of.job_name)
        managed_here = submission_of is not None and managed[submission_of.id]
        state = decide(sweep_folder, name, records[name], submission_of, job, jobs is not None, managed_here)
        states.append(RunState(name, sweep_folder / name, state, records[name], job, submission_of))
    return states, remark


def decide(
    sweep_folder: Path,
    name: str,
    record: Mapping[str, Any],
    submission: Submission | None,
    job: Job | None,
    slurm_known: bool,
    managed: bool,
) -> str:
    """The state of one run; what it recorded last counts only where nothing that is alive says otherwise."""
    status = record.get("status")
    cancelled = bool(mapping(record.get("launch")).get("cancelled"))
    folder = sweep_folder / name
    if status == "done" and (folder / "results.json").is_file():
        return "done"
    if is_held(supervisor_lock(sweep_folder, name)) or is_in_use(folder):
        return "running"
    if job is not None and job.is_live:
        return "queued" if job.is_pending else "running"
    if managed and status == "queued" and not cancelled:
        return "queued"
    if submission is not None and submission.launcher == "slurm" and status != "failed" and not slurm_known:
        return "unknown"
    if status == "failed":
        return "failed"
    if (job is not None and job.state == "CANCELLED") or cancelled:
        return "cancelled"
    if status == "preempted":
        return "preempted"
    return "lost"


def _folders(sweep_folder: Path) -> Iterator[str]:
    """Names of run folders: those with a record, or with a part of one."""
    try:
        entries = list(os.scandir(sweep_folder))
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and Path(entry.path, "run.json").exists():
            yield entry.name


def _task(job_id: str) -> int:
    """Its number in the array; 0 for a job that is none."""
    task = job_id.partition("_")[2]
    return int(task) if task.isdigit() else 0
