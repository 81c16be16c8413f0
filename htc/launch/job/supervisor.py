"""What a job does: start the run as a process of its own, watch over it, and start it again where that makes sense.

The run is a child, so that `kill -9`, a crash or the memory's end of it leave somebody who knows. submitit calls
`RunJob.checkpoint` on the signal that Slurm sends before the time limit and, where the cluster is set so, at a
preemption, and puts the job back into the queue; at other clusters' preemptions the supervisor does; a node's failure
and `scontrol requeue` are Slurm's own affair. In each case the next start goes on from the newest checkpoint.
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
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from htc.errors import UserError
from htc.launch.job.failures import describe_exit, failure_cause, failures_since_checkpoint, should_retry
from htc.launch.job.ranks import Ranks
from htc.launch.locks import FileLock
from htc.launch.slurm import is_preempted, requeue_job
from htc.launch.submission import Submission, supervisor_lock
from htc.runs.folder import RunFolder, now
from htc.runs.json_values import items, mapping
from htc.runs.provenance import slurm_job_id

POLL = 0.25
"""Seconds between looks at the child."""
TAKEOVER_CHECK = 2.0
"""Seconds between looks at whether another job has taken the run over."""
TAKEOVER_PATIENCE = 600.0
"""Seconds that a job waits for the one before it to let go of the run."""
PEER_PATIENCE = 60.0
"""Seconds that the first process of a run may go on after another one has failed: it may be about to end, or stuck."""
GRACE_PATIENCE = 600.0
"""Seconds that a job that was told to stop waits for Slurm to end it, where Slurm does not say why it is to stop."""
USER_ERROR, STOPPED = 2, 128 + signal.SIGTERM


@dataclass
class RunJob:
    """The row of a submission as a job; submitit pickles it, calls it, and calls `checkpoint` before the end."""

    submission: Path
    index: int
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the run; null leaves it as it is."""
    _supervisor: Supervisor | None = field(default=None, repr=False, compare=False)

    def __call__(self) -> str:
        self._supervisor = Supervisor(Submission.read(self.submission), self.index, self.gpus)
        self._supervisor.run()
        return "done"

    def checkpoint(self) -> Any:
        """Stop the run with its state saved -> what submitit queues again; None where that would lead nowhere.

        Exits where the run is done by then.
        """
        from submitit.helpers import DelayedSubmission

        if self._supervisor is not None and not self._supervisor.save_and_stop():
            if self._supervisor.folder.done:
                sys.exit(0)
            return None
        return DelayedSubmission(RunJob(self.submission, self.index, self.gpus))


class Supervisor:
    """Watches over one process of a run, on this node."""

    def __init__(self, submission: Submission, index: int, gpus: str | None = None) -> None:
        self.submission, self.index, self.gpus = submission, index, gpus
        self.name = submission.runs[index]
        self.sweep_folder = submission.path.parent.parent
        self.folder = RunFolder(self.sweep_folder / self.name)
        self.ranks = Ranks.of_this_job(submission)
        self.lock = FileLock(supervisor_lock(self.sweep_folder, self.name))
        self.owner_file = self.lock.path.with_suffix(".owner")
        self.token = f"{socket.gethostname()} {os.getpid()} {slurm_job_id()} {time.time_ns()}"
        self.child: subprocess.Popen[bytes] | None = None
        self.terminated = False
        self.peer_failure: str | None = None
        """Of another process of the run, which this one's was waiting for in vain."""
        self.started = time.time()
        self.first_step = self.newest_step()

    def run(self) -> None:
        """Return when the run is done; else exit: 143 where it was told to stop, 1 where it failed for good."""
        signal.signal(signal.SIGTERM, self._note_termination)
        self._exit_unless_wanted()
        if self.ranks.is_main:
            self._take_over()
        try:
            # However its process ended, a run that is done is not started again: forced, it would be another run.
            while not self.folder.done:
                self._exit_unless_wanted()
                code = self._run_once()
                if code == 0 or self.folder.done:
                    return
                if self.terminated or code == STOPPED:
                    self._exit_when_told_to()
                if not self.ranks.is_main:
                    # The first process decides what becomes of the run, and ends this one.
                    self.ranks.report_failure(self.submission, describe_exit(code))
                    time.sleep(3 * PEER_PATIENCE)
                    sys.exit(1)
                if not self._should_go_on(code):
                    sys.exit(1)
                if self.ranks.world_size > 1:
                    # All processes must start anew, also those on other nodes.
                    requeue_job(str(slurm_job_id()))
                    sys.exit(1)
        finally:
            self.lock.release()

    def save_and_stop(self) -> bool:
        """Let the run save its state and end -> whether another start would get any further than this one did."""
        timed_out = self._is_time_limit_near()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            self._wait_or_kill(float(self.submission.options.get("signal_before") or 60) * 0.8)
        if self.folder.done:
            return False
        if timed_out and self.newest_step() == self.first_step:
            reason = "the time limit is over and the run is not one checkpoint further: raise launcher.time"
            self.folder.set_status("failed", reason)
            return False
        return True

    def newest_step(self) -> int | None:
        """Of the newest checkpoint; None where there is none."""
        names = (path.stem.rpartition("_")[2] for path in self.folder.checkpoints.glob("step_*.pt"))
        return max((int(name) for name in names if name.isdigit()), default=None)

    def _run_once(self) -> int:
        """Start the run and wait for it -> its exit status, negative for a signal's number."""
        if self.ranks.is_main:
            with suppress(OSError):
                self.submission.error_file(self.index).unlink(missing_ok=True)
        ranks = self.ranks.environment(self.submission)
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
        # The lock goes along: as long as the run lives, even without this process, nobody else starts it.
        self.child = subprocess.Popen(
            [*program, *arguments], cwd=self.submission.cwd, env=environment, pass_fds=descriptors,
            stdin=subprocess.DEVNULL, preexec_fn=_ignore_user_signal,
        )  # fmt: skip
        return self._watch(self.child)

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for the run, and stop it where it is another job's by now, or waits in vain for another process."""
        checked = complete = time.monotonic()
        while (code := child.poll()) is None:
            time.sleep(POLL)
            if not self.ranks.is_main or time.monotonic() - checked < TAKEOVER_CHECK:
                continue
            checked = time.monotonic()
            if self._owner() != self.token:
                print("another job has taken this run over: stopping", file=sys.stderr, flush=True)
                self.terminated = True
                child.send_signal(signal.SIGTERM)
                return self._wait_or_kill(30)
            failure = self.ranks.reported_failure(self.submission)
            if failure is None:
                complete = checked
            elif checked - complete > PEER_PATIENCE:
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

    def _should_go_on(self, code: int) -> bool:
        """Whether to start again after a failure: not after the same one without a new checkpoint in between."""
        record = self.folder.read()
        recorded = str(record["error"]) if record.get("status") == "failed" and record.get("error") else None
        if (refusal := self._refusal()) is not None or code == USER_ERROR:
            # The disk may be full.
            with suppress(OSError):
                self.folder.set_status("failed", refusal or recorded or "the run was refused: see its job's log")
            return False
        cause = failure_cause(code, recorded, self.peer_failure)
        launch = mapping(record.get("launch"))
        step = self.newest_step()
        earlier = failures_since_checkpoint(launch, self.submission.id, step)
        failure = {"time": now(), "cause": cause, "step": step, "submission": self.submission.id, "job": slurm_job_id()}
        self.folder.update(launch={**launch, "failures": [*items(launch.get("failures")), failure]})
        if not should_retry(earlier, cause, int(self.submission.options.get("retries", 3))):
            where = f"at step {step}" if step is not None else "before the first checkpoint"
            self.folder.set_status("failed", f"{cause} ({len(earlier) + 1} times {where})")
            return False
        print(f"the run failed ({cause}): starting it again", file=sys.stderr, flush=True)
        return True

    def _refusal(self) -> str | None:
        """What the user has to mend, by any process of the run since it was started last."""
        try:
            return self.submission.error_file(self.index).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def _exit_when_told_to(self) -> NoReturn:
        """End the job; in a preemption put it back into the queue first.

        Slurm sends SIGTERM at a preemption unless the cluster sets `preempt_send_user_signal`, and takes a job that
        ends by itself in the time of grace for a failed one.
        """
        in_slurm = self.submission.launcher == "slurm" and self.ranks.is_main
        if in_slurm and self._owner() == self.token and self.submission.wants(self.folder.read()):
            try:
                if is_preempted(job := str(slurm_job_id())):
                    requeue_job(job)
            except UserError as error:
                print(f"{error.sentence} Waiting for Slurm to end the job.", file=sys.stderr, flush=True)
                time.sleep(GRACE_PATIENCE)
        sys.exit(STOPPED)

    def _exit_unless_wanted(self) -> None:
        """End where the run was cancelled, or submitted anew, before this process was the run's."""
        if not self.submission.wants(self.folder.read()):
            print(f"{self.folder.path} was cancelled or submitted anew: not started", file=sys.stderr)
            sys.exit(STOPPED)

    def _take_over(self) -> None:
        """Make this process the run's only one: an earlier job that still lives sees that it is replaced, and ends."""
        self.lock.path.parent.mkdir(parents=True, exist_ok=True)
        self.owner_file.write_text(self.token)
        end = time.monotonic() + TAKEOVER_PATIENCE
        while not self.lock.acquire():
            if self.terminated:
                self._exit_when_told_to()
            if time.monotonic() > end:
                print(f"{self.folder.path} is still in use by an earlier job", file=sys.stderr)
                sys.exit(1)
            time.sleep(POLL)

    def _owner(self) -> str:
        try:
            return self.owner_file.read_text()
        except OSError:
            # The file system is away for a moment; nobody has taken anything over.
            return self.token

    def _is_time_limit_near(self) -> bool:
        limit = self.submission.options.get("minutes")
        margin = float(self.submission.options.get("signal_before") or 0) + 60
        return limit is not None and time.time() - self.started > limit * 60 - margin - 60

    def _note_termination(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)


def _ignore_user_signal() -> None:
    # Slurm sends it to every process of the job; it is meant for the supervisor.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def main() -> None:
    """`python -m htc.launch.job.supervisor SUBMISSION ROW [GPUS]`: the local launcher's job."""
    arguments = sys.argv[1:]
    gpus = json.loads(arguments[2]) if len(arguments) > 2 else None
    RunJob(Path(arguments[0]), int(arguments[1]), gpus)()


if __name__ == "__main__":
    main()
