"""Locks between processes: those of the launcher, and those of runs as seen from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from htc.runs.file_lock import FileLock, is_held, locked
from htc.runs.lock import RunLock, is_in_use

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from htc.runs.file_lock import FileLock
from htc.runs.lock import RunLock
lock = {"FileLock": FileLock, "RunLock": RunLock}[sys.argv[1]](Path(sys.argv[2]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(lock: type[FileLock] | type[RunLock], path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process while the context is open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock.__name__, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_is_held_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run.lock"
    assert not is_held(path)
    with other_process(FileLock, path):
        assert is_held(path)
        assert is_held(path), "asking does not release the lock"
        assert not FileLock(path).acquire()
    assert path.is_file()
    assert not is_held(path)
    assert FileLock(path).acquire()


def test_a_run_is_in_use_until_its_process_is_killed(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    with other_process(RunLock, tmp_path):
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)


def test_a_process_that_inherits_a_lock_keeps_it_when_the_first_one_releases_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    assert lock.descriptor is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor])
    lock.release()
    try:
        assert is_held(lock.path)
    finally:
        child.kill()
        child.communicate()
    assert not is_held(lock.path)


def test_waiting_for_a_lock_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lock"
    with locked(path, "waiting"):
        assert is_held(path)
    assert capsys.readouterr().err == ""
    script = "import sys, time\ninput()\ntime.sleep(1)\n"
    lock = FileLock(path)
    assert lock.acquire()
    assert lock.descriptor is not None
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, text=True, pass_fds=[lock.descriptor]
    )
    lock.release()
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    with locked(path, "waiting"):
        assert child.wait(10) == 0
    assert capsys.readouterr().err == "waiting\n"
