"""States of runs, decided from what the runs recorded, from Slurm's answer and from the locks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from htc.errors import UserError
from htc.launch.slurm import ENDED_BADLY, PENDING_STATES, RUNNING_STATES, Job, query_jobs
from htc.launch.submission import Submission, read_submissions
from htc.runs.file_lock import is_held
from htc.runs.folder import RunFolder
from htc.runs.lock import is_in_use
from htc.runs.pool import SelectedRun, launch_lock, read_rows, supervisor_lock
from htc.runs.record import RunRecord

STATES = (
    "running", "queued", "done", "trained", "failed", "cancelled", "preempted", "lost", "missing", "unknown",
)  # fmt: skip
LIVE = ("running", "queued")
UNCLAIMED = "launcher.submit_limit"
"""Reason why a run waits that no job has claimed."""


@dataclass(frozen=True)
class RunFacts:
    """Facts that decide the state of one run."""

    exists: bool = True
    """True if the run's folder exists."""
    status: str | None = None
    """Status in run.json."""
    has_results: bool = False
    """True if the run has the results of the evaluation that is asked for; only looked up for the status `done`."""
    has_error: bool = False
    """True if run.json holds an error: that of an evaluation, if the status is `done`."""
    cancelled: bool = False
    """True if run.json records that a user cancelled the run, or if the failure of another run stopped it."""
    is_locked: bool = False
    """True if the run or its supervisor is alive and holds a lock; not looked up for a run with results."""
    launcher: str | None = None
    """Launcher of the run's newest submission: `slurm` or `local`; None for a run that was started by hand."""
    managed: bool = False
    """True if a launcher is alive that is about to submit or start the run."""
    failed_to_begin: bool = False
    """True if the run's job or process ended with an error before it began with the run."""
    job_state: str | None = None
    """Slurm's state of the run's job; None if Slurm knows of no such job."""
    slurm_known: bool = True
    """False if Slurm could not be asked."""


def decide_state(facts: RunFacts) -> str:
    """Return the state of a run: that of the first row which applies.

    Signs of life (locks, jobs, launchers) take precedence over the status that the run recorded last.
    """
    waits = facts.status in ("queued", "done") and not facts.cancelled
    rows = (
        ("done", facts.status == "done" and facts.has_results),
        ("running", facts.is_locked),
        ("queued", facts.job_state in PENDING_STATES),
        ("running", facts.job_state in RUNNING_STATES),
        ("failed", waits and facts.failed_to_begin),
        ("queued", facts.managed and waits),
        ("unknown", facts.launcher == "slurm" and not facts.slurm_known and facts.status != "failed" and facts.exists),
        ("failed", facts.status == "failed" or (facts.status == "done" and facts.has_error)),
        ("failed", facts.status == "queued" and not facts.cancelled and facts.job_state in ENDED_BADLY),
        ("trained", facts.status == "done"),
        ("cancelled", facts.cancelled or facts.job_state == "CANCELLED"),
        ("preempted", facts.status == "preempted"),
        ("missing", not facts.exists),
        ("lost", True),
    )
    return next(state for state, applies in rows if applies)


@dataclass
class RunState:
    """State of one run, with the files and the job that belong to it."""

    name: str
    """Name of the run's folder."""
    folder: Path
    state: str
    """One of STATES; `unknown` if the run is on a Slurm that cannot be asked from this machine."""
    record: RunRecord = field(default_factory=RunRecord)
    """Content of run.json."""
    job: Job | None = None
    submission: Submission | None = None
    """Newest submission that contains the run; None for a run that was started by hand."""
    row: SelectedRun | None = None
    """Row of the sweep whose states were asked for; None without a sweep."""

    @property
    def index(self) -> int | None:
        """Row of the run in its submission."""
        return self.submission.positions[self.name] if self.submission else None

    @property
    def job_id(self) -> str | None:
        """Id of the run's job; None without Slurm, and for a run that no job has claimed."""
        if self.submission is None or self.index is None or (slot := self.submission.slot(self.index)) is None:
            return None
        return self.submission.jobs[slot] or (self.job.id if self.job else None)

    @property
    def restarts(self) -> int:
        """Number of times that the run was resumed."""
        return len(self.record.resumes)

    @property
    def node(self) -> str:
        """Node on which the run is or was last; for a queued job, Slurm's reason in brackets."""
        if self.job is not None and self.job.is_pending:
            # The reason shows whether a job waits for its turn or will never start.
            return f"({self.job.reason})"
        if self.job is not None and self.job.node:
            return self.job.node
        resumed_on = self.record.resumes[-1].host if self.record.resumes else None
        return resumed_on or self.record.host or ""

    @property
    def is_live(self) -> bool:
        """True if the run may be under way: it is not started again."""
        return self.state in LIVE or self.state == "unknown"


def run_states(
    pool: Path, rows: Sequence[SelectedRun], *, need_slurm: bool = False
) -> tuple[list[RunState], str | None]:
    """Return the state of the run of each row, and a remark if Slurm could not be asked.

    Args:
        pool: Folder of all runs.
        rows: Runs, with the evaluations that they should have. A row without a label may stand for any run.
        need_slurm: Raise UserError if Slurm cannot be asked: a launch must know which jobs exist.
    """
    newest = _newest_submissions(pool)
    names = list(dict.fromkeys(row.run for row in rows))
    records = {name: RunFolder(pool / name).read() for name in names}
    # Slurm is asked only about submissions with a run that is not done.
    open_in_slurm = {
        newest[row.run].id: newest[row.run]
        for row in rows
        if row.run in newest and newest[row.run].launcher == "slurm" and not _is_done(pool, row, records[row.run])
    }
    jobs: list[Job] | None = []
    remark = None
    if open_in_slurm:
        try:
            jobs = query_jobs(submission.uid for submission in open_in_slurm.values())
        except UserError as error:
            if need_slurm:
                raise
            jobs, remark = None, error.sentence
    job_of = _jobs_by_run({name: newest[name] for name in names if name in newest}, jobs or [])
    # A launch in another process may be about to submit these runs. A launch in this process (`need_slurm`) is not.
    launching = not need_slurm and is_held(launch_lock(pool))
    managed = {each.id: launching or is_held(each.manager_lock) for each in {s.id: s for s in newest.values()}.values()}
    states = []
    for row in rows:
        submission = newest.get(row.run)
        job = job_of.get(row.run)
        facts = _facts(
            pool, row, records[row.run], submission, job,
            managed=submission is not None and managed[submission.id], slurm_known=jobs is not None,
        )  # fmt: skip
        state = decide_state(facts)
        states.append(RunState(row.run, pool / row.run, state, records[row.run], job, submission, row))
    return states, remark


def sweep_states(pool: Path, sweep: str, *, need_slurm: bool = False) -> tuple[list[RunState], str | None]:
    """Return the state of each row of a sweep, in the order of its rows; otherwise like `run_states`."""
    return run_states(pool, read_rows(pool, sweep), need_slurm=need_slurm)


def _newest_submissions(pool: Path) -> dict[str, Submission]:
    """Newest submission of each launched run, by the run's name."""
    newest: dict[str, Submission] = {}
    for submission in read_submissions(pool):
        newest.update(dict.fromkeys(submission.runs, submission))
    return newest


def _is_done(pool: Path, row: SelectedRun, record: RunRecord) -> bool:
    # Looking for the results of thousands of runs takes time, so only for those that can have them.
    return record.status == "done" and RunFolder(pool / row.run).has_results(row.evaluation)


def _jobs_by_run(newest: Mapping[str, Submission], jobs: Iterable[Job]) -> dict[str, Job]:
    """Jobs by the name of their run.

    A job is found by its comment and its index in the array, so that it is found even if the launch died before it
    recorded the job ids.
    """
    listed = [job for job in jobs if job.submission]
    by_slot = {(job.submission, _array_index(job.id)): job for job in listed}
    # Slurm lists an array that was cancelled before any of its jobs began as one job.
    arrays = {job.submission: job for job in listed if "_" not in job.id}
    live = {job.submission: job for job in listed if job.state in (*PENDING_STATES, *RUNNING_STATES)}
    # The runs of a shared submission, by the job that claimed them, the newest last.
    claims = {
        each.id: {slot: index for index in range(len(each.runs)) if (slot := each.slot(index)) is not None}
        for each in {submission.id: submission for submission in newest.values() if submission.is_shared}.values()
    }
    found = {}
    for run, submission in newest.items():
        index = submission.positions[run]
        slot = submission.slot(index)
        if slot is None:
            # A live job of the submission is going to claim the run.
            job = replace(live[submission.id], state="PENDING", reason=UNCLAIMED) if submission.id in live else None
        elif submission.is_shared and claims[submission.id].get(slot) != index:
            # The job has gone on with another run.
            job = None
        else:
            job = by_slot.get((submission.id, slot)) or arrays.get(submission.id)
        if job is not None:
            found[run] = job
    return found


def _facts(
    pool: Path,
    row: SelectedRun,
    record: RunRecord,
    submission: Submission | None,
    job: Job | None,
    *,
    managed: bool,
    slurm_known: bool,
) -> RunFacts:
    """Collect the facts of the run of a row, with this record."""
    folder = pool / row.run
    has_results = _is_done(pool, row, record)
    is_locked = not has_results and (is_held(supervisor_lock(pool, row.run)) or is_in_use(folder))
    # Whether it failed to begin is looked up on the disk only where it can matter.
    is_live = is_locked or has_results or (job is not None and job.state in (*PENDING_STATES, *RUNNING_STATES))
    is_dead = submission is not None and not is_live
    return RunFacts(
        exists=record != RunRecord() or folder.is_dir(),
        status=record.status,
        has_results=has_results,
        has_error=record.error is not None,
        cancelled=record.cancelled or (is_dead and submission is not None and _is_stopped(submission, record)),
        is_locked=is_locked,
        launcher=submission.launcher if submission else None,
        managed=managed,
        failed_to_begin=is_dead and submission is not None and _failed_to_begin(submission, row, record),
        job_state=job.state if job else None,
        slurm_known=slurm_known,
    )


def failed_slot(submission: Submission, run: str) -> int | None:
    """Return the index of the job of a run if it failed before it began; for a run without a job, that of any job."""
    slot = submission.slot(submission.positions[run])
    slots = range(len(submission.jobs)) if slot is None else [slot]
    return next((each for each in slots if submission.failed_to_begin(each)), None)


def _failed_to_begin(submission: Submission, row: SelectedRun, record: RunRecord) -> bool:
    if failed_slot(submission, row.run) is None:
        return False
    # A run that is done was submitted for one evaluation, and other rows may ask for others.
    index = submission.positions[row.run]
    return record.status != "done" or row.evaluation in (None, submission.row(index).evaluation)


def _is_stopped(submission: Submission, record: RunRecord) -> bool:
    """Return whether the failure of another run stopped a run before its end."""
    return record.status in ("queued", "running", "preempted") and submission.is_stopped


def _array_index(job_id: str) -> int:
    """Index of a job in its array; 0 for a job that is in no array."""
    index = job_id.partition("_")[2]
    return int(index) if index.isdigit() else 0
