"""The local launcher: runs of a submission on this machine, some at a time, each in processes of its own."""

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
from htc.launch.locks import FileLock, is_held
from htc.launch.submission import Submission
from htc.runs.folder import RunFolder

POLL = 0.1


class LocalManager:
    """Starts the runs of a submission in their order, as places and GPUs become free."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.gpus_per_run = int(submission.options.get("gpus_per_run") or 1)
        self.free_gpus = visible_gpus()
        if self.free_gpus and len(self.free_gpus) < self.gpus_per_run:
            raise UserError(
                f"launcher.gpus_per_run={self.gpus_per_run}, but this machine has {len(self.free_gpus)} GPUs."
            )
        places = len(self.free_gpus) // self.gpus_per_run if self.free_gpus else 1
        jobs = submission.options.get("jobs") or places
        # Two runs on one GPU would share its memory: not unless there are none to share.
        self.jobs = min(jobs, places) if self.free_gpus else jobs
        self.environment = {**os.environ, **submission.code_environment}
        if not self.free_gpus and self.jobs > 1:
            # However few are left: a run that goes on later has the threads that it had, and so the same figures.
            threads = max(1, processors() // (self.jobs * self.gpus_per_run))
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.running: dict[int, tuple[subprocess.Popen[bytes], list[str]]] = {}
        self.waiting = list(range(len(submission.runs)))
        self.stopped = False

    def run(self, ended: Callable[[str], None] = lambda name: None, *, show: bool = False) -> None:
        """Work until every run has ended; `ended` is told of each. `show`: what the runs print goes to the terminal."""
        lock = FileLock(self.submission.manager_lock)
        if not lock.acquire():
            raise UserError(f"{self.submission.path} is being worked on by another process.")
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (self.waiting and not self.stopped) or self.running:
                while self.waiting and len(self.running) < self.jobs and not self.stopped:
                    self._start(self.waiting.pop(0), show)
                for index, (process, gpus) in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[index]
                        self.free_gpus += gpus
                        ended(self.submission.runs[index])
                time.sleep(POLL)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            lock.release()

    def _start(self, index: int, show: bool) -> None:
        folder = RunFolder(self.submission.path.parent.parent / self.submission.runs[index])
        if not self.submission.wants(folder.read()):
            return
        gpus = [self.free_gpus.pop(0) for _ in range(self.gpus_per_run)] if self.free_gpus else []
        command = [sys.executable, "-m", "htc.launch.job.supervisor", str(self.submission.path), str(index)]
        command += [json.dumps(",".join(gpus))] if gpus else []
        with (self.submission.path / f"{index}.log").open("ab") as log:
            output = None if show else log
            # Its own session: Ctrl-C reaches the launcher alone, which tells the runs in its own time.
            process = subprocess.Popen(
                command, cwd=self.submission.cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self.running[index] = process, gpus

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        for process, _ in self.running.values():
            process.terminate()


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name here; empty without GPUs. PyTorch, which takes seconds, is not asked."""
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
    """How many this process may use: fewer than the machine has, in a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_manager(submission: Submission) -> None:
    """Work on a submission in the background, also after the terminal is closed."""
    environment = {**os.environ, **submission.code_environment}
    with (submission.path / "manager.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "htc.launch.local", str(submission.path)],
            cwd=submission.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 30
    while not is_held(submission.manager_lock) and time.monotonic() < end:
        time.sleep(0.05)


if __name__ == "__main__":
    LocalManager(Submission.read(Path(sys.argv[1]))).run()
