"""Jobs that share the runs of a submission, for queues that take only some jobs at a time (`launcher.submit_limit`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.launch.job.ranks import Ranks, start_id
from htc.launch.job.supervisor import Supervisor
from htc.launch.slurm import requeue_job
from htc.launch.submission import Submission
from htc.runs.folder import RunFolder
from htc.runs.provenance import slurm_job_id

NEXT_TIMEOUT = 7200.0
"""Seconds that a process waits for the main process to name the next run: that one may still evaluate the last."""
END = "end"


@dataclass
class SharedJob:
    """One of the jobs that share the runs of a submission: it claims one run after the other.

    submitit pickles it, calls it, and calls `checkpoint` before the time limit. A job that starts again goes on with
    the run that it claimed last.
    """

    submission: Path
    slot: int
    """Index of the job in its array."""
    _supervisor: Supervisor | None = field(default=None, repr=False, compare=False)

    def __call__(self) -> str:
        submission = Submission.read(self.submission)
        ranks = Ranks.of_this_job(submission)
        for index in self._runs(submission) if ranks.is_main else self._runs_of_main(submission):
            self._supervisor = Supervisor(submission, index)
            try:
                self._supervisor.run()
            except SystemExit:
                if self._supervisor.is_told_to_end or submission.is_stopped:
                    raise
                if ranks.world_size > 1:
                    if ranks.is_main and self._is_over(submission, index) and self._has_more(submission):
                        # All processes must start again, to go on with the next run together.
                        requeue_job(str(slurm_job_id()))
                    raise
            if self._supervisor.is_told_to_end:
                break
        return "done"

    def checkpoint(self) -> Any:
        """Let the run save its state and stop. Return the job that submitit requeues, or None if it would not help.

        Exit if nothing is left to do.
        """
        from submitit.helpers import DelayedSubmission

        supervisor = self._supervisor
        if supervisor is None or supervisor.save_and_stop() or self._has_more(supervisor.submission):
            return DelayedSubmission(SharedJob(self.submission, self.slot))
        if supervisor.is_done:
            sys.exit(0)
        return None

    def _runs(self, submission: Submission) -> Iterator[int]:
        """Yield the runs that this job works on, and tell the other processes of the job."""
        number = 0
        unfinished = [index for index in submission.claimed(self.slot)[-1:] if not self._is_over(submission, index)]
        while True:
            index = unfinished.pop() if unfinished else self._claim(submission)
            with suppress(OSError):
                self._next_file(number).write_text(END if index is None else str(index))
            if index is None:
                return
            yield index
            number += 1

    def _runs_of_main(self, submission: Submission) -> Iterator[int]:
        """Yield the runs that the main process names. Raises TimeoutError if it does not."""
        number = 0
        while True:
            end = time.monotonic() + NEXT_TIMEOUT
            while not (text := _read(self._next_file(number))):
                if time.monotonic() > end:
                    raise TimeoutError(f"{submission.path}: the main process of the job did not name its next run")
                time.sleep(0.2)
            if text == END:
                return
            yield int(text)
            number += 1

    def _claim(self, submission: Submission) -> int | None:
        """Claim the next run that no job has claimed, and return it; None if there is none."""
        for index in range(len(submission.runs)):
            folder = submission.claim_folder(index)
            folder.parent.mkdir(exist_ok=True)
            try:
                # Creating a folder succeeds for one process only, also on network file systems.
                folder.mkdir()
            except FileExistsError:
                continue
            (folder / "slot").write_text(str(self.slot))
            return index
        return None

    def _has_more(self, submission: Submission) -> bool:
        return any(not submission.claim_folder(index).exists() for index in range(len(submission.runs)))

    def _is_over(self, submission: Submission, index: int) -> bool:
        """Return whether a run failed for good or may not be started; one that is done ends at once."""
        record = RunFolder(submission.pool / submission.runs[index]).read()
        return record.status == "failed" or not submission.may_start(record)

    def _next_file(self, number: int) -> Path:
        return self.submission / f"next-{start_id()}-{self.slot}-{number}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
