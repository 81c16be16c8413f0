"""Supervise one run in a job: start it, watch it, and start it again after a failure.

The run is a child process, so a supervisor survives SIGKILL, crashes and out-of-memory kills of the run. After each
interruption the next start resumes from the newest checkpoint. Who puts the job back into Slurm's queue depends on the
interruption:

- Before the time limit, and at a preemption if the cluster sets `preempt_send_user_signal`, Slurm sends SIGUSR2:
  submitit calls `RunJob.checkpoint` and requeues the job.
- At a preemption on other clusters, Slurm sends SIGTERM: the supervisor requeues the job.
- After a node failure or `scontrol requeue`, Slurm requeues the job itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from htc.errors import UserError
from htc.launch.job.failures import describe_exit, failure_cause, failures_since_checkpoint, should_retry
from htc.launch.job.ranks import Ranks
from htc.launch.sbatch import names_jobs
from htc.launch.slurm import cancel_pending_jobs, is_preempted, rename_job, requeue_job
from htc.launch.submission import Submission
from htc.runs.file_lock import FileLock
from htc.runs.folder import RunFolder, now
from htc.runs.pool import supervisor_lock
from htc.runs.provenance import slurm_job_id
from htc.runs.record import Failure

POLL_SECONDS = 0.25
"""Interval at which the child process is polled."""
TAKEOVER_CHECK_SECONDS = 2.0
"""Interval at which the supervisor checks whether another job has taken over the run."""
TAKEOVER_TIMEOUT = 600.0
"""Seconds that a job waits for an earlier job to release the run."""
PEER_TIMEOUT = 60.0
"""Seconds that the main process may continue after another process of the run failed: it may be ending, or hang."""
GRACE_TIMEOUT = 600.0
"""Seconds that a job waits for Slurm to end it, if Slurm does not answer whether the job is preempted."""
LIMIT_MARGIN = 120.0
"""Seconds by which Slurm may send the signal for the time limit earlier than `signal_before` says."""
USER_ERROR, STOPPED = 2, 128 + signal.SIGTERM
"""Exit statuses of a run that refused its settings, and of a run that was told to stop."""


@dataclass
class RunJob:
    """One row of a submission as a job: submitit pickles it, calls it, and calls `checkpoint` before the time limit."""

    submission: Path
    index: int
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the run; None leaves the variable unchanged."""
    _supervisor: Supervisor | None = field(default=None, repr=False, compare=False)

    def __call__(self) -> str:
        self._supervisor = Supervisor(Submission.read(self.submission), self.index, self.gpus)
        self._supervisor.run()
        return "done"

    def checkpoint(self) -> Any:
        """Let the run save its state and stop. Return the job that submitit requeues, or None if it would not help.

        Exit if the run is done by then.
        """
        from submitit.helpers import DelayedSubmission

        if self._supervisor is not None and not self._supervisor.save_and_stop():
            if self._supervisor.is_done:
                sys.exit(0)
            return None
        return DelayedSubmission(RunJob(self.submission, self.index, self.gpus))


class Supervisor:
    """Supervises one process of a run on this node."""

    def __init__(self, submission: Submission, index: int, gpus: str | None = None) -> None:
        self.submission, self.index, self.gpus = submission, index, gpus
        self.name = submission.runs[index]
        self.folder = RunFolder(submission.pool / self.name)
        row = submission.row(index)
        self.evaluation, self.label = row.evaluation, row.label or row.folder
        self.ranks = Ranks.of_this_job(submission)
        self.lock = FileLock(supervisor_lock(submission.pool, self.name))
        self.owner_file = self.lock.path.with_suffix(".owner")
        self.token = f"{socket.gethostname()} {os.getpid()} {slurm_job_id()} {time.time_ns()}"
        self.child: subprocess.Popen[bytes] | None = None
        self.terminated = False
        """Whether the run is to stop: the job ends, or another one has taken the run over."""
        self.is_told_to_end = False
        """Whether Slurm or the local launcher ends the job."""
        self.peer_failure: str | None = None
        """Failure of another process of the run, for which the child waited in vain."""
        self.started = time.time()
        self.first_step = self.newest_step()

    def run(self) -> None:
        """Return when the run is done. Exit with 143 if it was told to stop, and with 1 if it failed for good."""
        signal.signal(signal.SIGTERM, self._handle_termination)
        self._exit_unless_current()
        self._begin()
        if self.ranks.is_main:
            self._take_over()
        try:
            # A run that is done is not started again, even if its process crashed: with force=true, another start would
            # be another run.
            while not self.is_done:
                self._exit_unless_current()
                code = self._run_once()
                if code == 0 or self.is_done:
                    return
                if self.terminated or code == STOPPED:
                    self._exit_after_termination()
                if not self.ranks.is_main:
                    # The main process decides whether to start the run again, and requeueing the job ends this one.
                    self.ranks.report_failure(self.submission, self.index, describe_exit(code))
                    time.sleep(3 * PEER_TIMEOUT)
                    sys.exit(1)
                if not self._should_start_again(code):
                    self._stop_others()
                    sys.exit(1)
                if self.ranks.world_size > 1:
                    # All processes must start again, also those on other nodes.
                    requeue_job(str(slurm_job_id()))
                    sys.exit(1)
        finally:
            self.lock.release()

    def _begin(self) -> None:
        """Record that the run begins, by the file that the batch script looks for, and give the job its name."""
        if self.submission.launcher != "slurm" or not self.ranks.is_main:
            return
        with suppress(OSError):
            (self.submission.path / f"{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}.begins").unlink(missing_ok=True)
        if (job := slurm_job_id()) is not None and not names_jobs(self.submission.options):
            rename_job(job, f"{self.submission.sweep}/{self.label}")

    def _stop_others(self) -> None:
        """With the option `fail_fast`, stop the other runs of the launch: none starts, and those under way end."""
        if not self.submission.options.get("fail_fast"):
            return
        self.submission.stop_file.touch()
        if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
            with suppress(UserError):
                cancel_pending_jobs(array)

    def save_and_stop(self) -> bool:
        """Let the run save its state and stop. Return whether another start would make progress."""
        timed_out = self._is_time_limit_near()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            self._wait_or_kill(float(self.submission.options.get("signal_before") or 60) * 0.8)
        if self.is_done:
            return False
        if timed_out and self.newest_step() == self.first_step:
            reason = "the time limit was reached without a new checkpoint: raise launcher.time"
            self.folder.fail(reason)
            self._stop_others()
            return False
        return True

    @property
    def is_done(self) -> bool:
        """Whether the run is trained and has its evaluation. Raises UserError where run.json cannot be read."""
        return self.folder.trained and self.folder.has_results(self.evaluation)

    def newest_step(self) -> int | None:
        """Return the step of the newest checkpoint; None if there is none."""
        names = (path.stem.rpartition("_")[2] for path in self.folder.checkpoints.glob("step_*.pt"))
        return max((int(name) for name in names if name.isdigit()), default=None)

    def _run_once(self) -> int:
        """Start the run, wait for it, and return its exit status: negative for the number of a signal."""
        if self.ranks.is_main:
            with suppress(OSError):
                self.submission.error_file(self.index).unlink(missing_ok=True)
        ranks = self.ranks.environment(self.submission, self.index)
        environment = {**os.environ, **ranks, **self.submission.code_environment}
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus
        program = [sys.executable]
        processes = int(self.submission.options.get("gpus_per_run") or 1)
        if processes > 1:
            program += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        arguments = ["-m", "htc.launch.job.worker", str(self.submission.path), str(self.index)]
        descriptors = () if self.lock.descriptor is None else (self.lock.descriptor,)
        if self.terminated:
            return STOPPED
        # The child inherits the lock, so no other job starts the run while it lives, even if this process is killed.
        self.child = subprocess.Popen(
            [*program, *arguments], cwd=self.submission.cwd, env=environment, pass_fds=descriptors,
            stdin=subprocess.DEVNULL, preexec_fn=_ignore_user_signal,
        )  # fmt: skip
        return self._watch(self.child)

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for the run. Stop it if another job took it over, or if it waits for a process that failed."""
        checked = last_complete = time.monotonic()
        while (code := child.poll()) is None:
            time.sleep(POLL_SECONDS)
            if not self.ranks.is_main or time.monotonic() - checked < TAKEOVER_CHECK_SECONDS:
                continue
            checked = time.monotonic()
            if self._owner() != self.token or self.submission.is_stopped:
                why = "another run failed" if self.submission.is_stopped else "another job has taken this run over"
                print(f"{why}: stopping", file=sys.stderr, flush=True)
                self.terminated = True
                child.send_signal(signal.SIGTERM)
                return self._wait_or_kill(30)
            failure = self.ranks.reported_failure(self.submission, self.index)
            if failure is None:
                last_complete = checked
            elif checked - last_complete > PEER_TIMEOUT:
                self.peer_failure = failure
                child.kill()
        return code

    def _wait_or_kill(self, seconds: float) -> int:
        assert self.child is not None
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()

    def _should_start_again(self, code: int) -> bool:
        """Record a failure, and return whether the run is started again; see `should_retry`."""
        record = self.folder.read()
        recorded = record.error
        if (refusal := self._refusal()) is not None or code == USER_ERROR:
            # Writing fails if the disk is full.
            with suppress(OSError):
                self.folder.fail(refusal or recorded or "the run was refused: see its job's log")
            return False
        cause = failure_cause(code, recorded, self.peer_failure)
        step = self.newest_step()
        launch = record.launch or self.submission.launch_record(self.submission.row(self.index))
        earlier = failures_since_checkpoint(launch.failures, self.submission.id, step)
        failure = Failure(now(), cause, step, self.submission.id, slurm_job_id())
        self.folder.update(launch=replace(launch, failures=[*launch.failures, failure]))
        if not should_retry(earlier, cause, int(self.submission.options.get("retries", 3))):
            where = f"at step {step}" if step is not None else "before the first checkpoint"
            self.folder.fail(f"{cause} ({len(earlier) + 1} times {where})")
            return False
        print(f"the run failed ({cause}): starting it again", file=sys.stderr, flush=True)
        return True

    def _refusal(self) -> str | None:
        """Return the sentence with which a process of the run refused to go on since the last start, if any."""
        try:
            return self.submission.error_file(self.index).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def _exit_after_termination(self) -> NoReturn:
        """End the job, and requeue it first if it is preempted.

        At a preemption Slurm sends SIGTERM unless the cluster sets `preempt_send_user_signal`. A job that ends within
        the grace time counts as failed and is not requeued by Slurm.
        """
        in_slurm = self.submission.launcher == "slurm" and self.ranks.is_main
        if in_slurm and self._owner() == self.token and self.submission.may_start(self.folder.read()):
            try:
                if is_preempted(job := str(slurm_job_id())):
                    requeue_job(job)
            except UserError as error:
                print(f"{error.sentence} Waiting for Slurm to end the job.", file=sys.stderr, flush=True)
                time.sleep(GRACE_TIMEOUT)
        sys.exit(STOPPED)

    def _exit_unless_current(self) -> None:
        """Exit if the run was cancelled, or if a later submission contains it."""
        if not self.submission.may_start(self.folder.read()):
            print(f"{self.folder.path} was cancelled, stopped or submitted again: not started", file=sys.stderr)
            sys.exit(STOPPED)

    def _take_over(self) -> None:
        """Take the run over: an earlier job that is still alive reads the new owner, stops and releases the lock."""
        self.lock.path.parent.mkdir(parents=True, exist_ok=True)
        self.owner_file.write_text(self.token)
        end = time.monotonic() + TAKEOVER_TIMEOUT
        while not self.lock.acquire():
            if self.terminated:
                self._exit_after_termination()
            if time.monotonic() > end:
                print(f"{self.folder.path} is still in use by an earlier job", file=sys.stderr)
                sys.exit(1)
            time.sleep(POLL_SECONDS)

    def _owner(self) -> str:
        try:
            return self.owner_file.read_text()
        except OSError:
            # The file system may fail for a moment, which does not mean that another job took the run over.
            return self.token

    def _is_time_limit_near(self) -> bool:
        """Return whether the time limit, and not a preemption, explains that the job is told to stop."""
        minutes = self.submission.options.get("minutes")
        signal_before = float(self.submission.options.get("signal_before") or 0)
        return minutes is not None and time.time() - self.started > minutes * 60 - signal_before - LIMIT_MARGIN

    def _handle_termination(self, number: int, frame: FrameType | None) -> None:
        self.terminated = self.is_told_to_end = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)


def _ignore_user_signal() -> None:
    # Slurm sends SIGUSR2 to every process of the job, but only the supervisor handles it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def main() -> None:
    """Run the command `python -m htc.launch.job.supervisor SUBMISSION ROW [GPUS]`: a job of the local launcher."""
    arguments = sys.argv[1:]
    gpus = json.loads(arguments[2]) if len(arguments) > 2 else None
    RunJob(Path(arguments[0]), int(arguments[1]), gpus)()


if __name__ == "__main__":
    main()
