"""Local launcher: start the runs of a submission on this machine, N at a time, each in its own processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from htc.errors import UserError
from htc.launch.submission import Submission
from htc.runs.file_lock import FileLock, is_held
from htc.runs.folder import RunFolder

POLL_SECONDS = 0.1
"""Interval at which the manager looks for runs that ended."""
STOPPED = 128 + signal.SIGTERM
"""Exit status of a supervisor that was told to stop."""
START_TIMEOUT = 30.0
"""Seconds that a launch waits for its manager in the background to start."""


class LocalManager:
    """Starts the runs of a submission in their order, as soon as a slot and its GPUs are free."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.gpus_per_run = int(submission.options.get("gpus_per_run") or 1)
        self.free_gpus = visible_gpus()
        if self.free_gpus and len(self.free_gpus) < self.gpus_per_run:
            raise UserError(
                f"launcher.gpus_per_run={self.gpus_per_run}, but this machine has {len(self.free_gpus)} GPUs."
            )
        slots = len(self.free_gpus) // self.gpus_per_run if self.free_gpus else 1
        jobs = submission.options.get("jobs") or slots
        # Two runs on one GPU would share its memory, so the GPUs limit the number of runs at a time.
        self.jobs = min(jobs, slots) if self.free_gpus else jobs
        self.environment = {**os.environ, **submission.code_environment}
        if not self.free_gpus and self.jobs > 1:
            # Not the number of runs that are left: a resumed run must have as many threads as before, because the
            # number of threads changes the rounding of its results.
            threads = max(1, processors() // (self.jobs * self.gpus_per_run))
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.running: dict[int, tuple[subprocess.Popen[bytes], list[str]]] = {}
        self.waiting = list(range(len(submission.runs)))
        self.stopped = False

    def run(self, on_end: Callable[[str], None] = lambda name: None, *, show: bool = False) -> None:
        """Start runs and wait until all have ended. Raises UserError if another process works on the submission.

        Args:
            on_end: Called with the name of each run that has ended.
            show: Print the output of the runs to the terminal, instead of to their log files.
        """
        lock = FileLock(self.submission.manager_lock)
        if not lock.acquire():
            raise UserError(f"{self.submission.path} is being worked on by another process.")
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (self.waiting and not self.stopped) or self.running:
                while self.waiting and len(self.running) < self.jobs and not self.stopped:
                    self._start(self.waiting.pop(0), show)
                for index, (process, gpus) in list(self.running.items()):
                    if (code := process.poll()) is not None:
                        del self.running[index]
                        self.free_gpus += gpus
                        self._note_end(index, code)
                        on_end(self.submission.runs[index])
                time.sleep(POLL_SECONDS)
            if self.stopped:
                self._note_stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            lock.release()

    def _start(self, index: int, show: bool) -> None:
        if not self.submission.may_start(self._folder(index).read()):
            return
        gpus = [self.free_gpus.pop(0) for _ in range(self.gpus_per_run)] if self.free_gpus else []
        command = [sys.executable, "-m", "htc.launch.job.supervisor", str(self.submission.path), str(index)]
        command += [json.dumps(",".join(gpus))] if gpus else []
        with (self.submission.path / f"{index}.log").open("ab") as log:
            output = None if show else log
            # In a session of its own, so that Ctrl-C reaches only the launcher, which then stops the runs.
            process = subprocess.Popen(
                command, cwd=self.submission.cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self.running[index] = process, gpus

    def _note_end(self, index: int, code: int) -> None:
        """Record that a process failed before it began with its run; with `fail_fast`, a failure stops the others."""
        record = self._folder(index).read()
        if code not in (0, STOPPED, -signal.SIGTERM) and record.status == "queued":
            (self.submission.path / f"{index}.failed").touch()
        elif record.status != "failed":
            return
        if self.submission.options.get("fail_fast") and not self.submission.is_stopped:
            self.submission.stop_file.touch()
            self.waiting.clear()

    def _note_stop(self) -> None:
        """Record of the runs that had not begun when this was told to stop that they are interrupted, as the others."""
        for index in range(len(self.submission.runs)):
            record = self._folder(index).read()
            is_ours = record.launch is not None and record.launch.submission == self.submission.id
            if is_ours and record.status == "queued" and not record.cancelled:
                self._folder(index).update(status="preempted")

    def _folder(self, index: int) -> RunFolder:
        return RunFolder(self.submission.pool / self.submission.runs[index])

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        for process, _ in self.running.values():
            process.terminate()


def visible_gpus() -> list[str]:
    """Return the names that CUDA_VISIBLE_DEVICES may hold; an empty list without GPUs.

    They come from the environment or nvidia-smi: importing PyTorch takes seconds.
    """
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


def processors() -> int:
    """Return the number of CPUs that this process may use: in a container or a job, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_manager(submission: Submission) -> None:
    """Start a manager in the background that works on the submission, also after the terminal is closed."""
    environment = {**os.environ, **submission.code_environment}
    with (submission.path / "manager.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "htc.launch.local", str(submission.path)],
            cwd=submission.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + START_TIMEOUT
    while not is_held(submission.manager_lock) and time.monotonic() < end:
        time.sleep(0.05)


if __name__ == "__main__":
    LocalManager(Submission.read(Path(sys.argv[1]))).run()
