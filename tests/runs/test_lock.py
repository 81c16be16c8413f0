"""A run's folder is used by one process at a time, and a crash releases its lock."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from htc.errors import UserError
from htc.runs.lock import RunLock

HOLD = """
import subprocess, sys
from pathlib import Path
from multiprocessing import get_context
from htc.runs.lock import RunLock
import time
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
worker = get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_lock_is_refused_naming_the_holder_until_the_holder_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert other.stdout is not None
    worker = int(other.stdout.readline())
    lock = RunLock(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"in use by process {other.pid} on {os.uname().nodename} since"):
            lock.acquire()
    finally:
        other.kill()
        other.wait()
    try:
        os.kill(worker, 0)
        lock.acquire()
        assert str(os.getpid()) in lock.path.read_text(), "a worker that survives its parent holds the lock"
    finally:
        os.kill(worker, signal.SIGKILL)
        lock.release()


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        lock = RunLock(tmp_path / "new")
        lock.acquire()
        lock.release()


def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    monkeypatch.setattr(logging.getLogger("htc"), "propagate", True)
    RunLock(tmp_path).acquire()
    assert "has no locks" in caplog.text
