"""Locks between processes, users and nodes that share a file system; the system releases them after a crash."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from htc.errors import UserError
from htc.runs.lock import is_locked

POLL_SECONDS = 0.2
"""Interval at which `locked` tries to take a lock that another process holds."""


class FileLock:
    """A lock that this process and those that inherit its descriptor hold until the last of them ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, and return whether it was. Raises UserError if the file cannot be written."""
        descriptor = _open(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise UserError(f"{self.path} cannot be locked ({error.strerror}): use a file system with locks.") from None
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def is_held(path: Path) -> bool:
    """Return whether any process holds the FileLock of this path."""
    return is_locked(path, fcntl.flock)


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock. If another process holds it, print the message `waiting` to standard error and wait."""
    lock = FileLock(path)
    if not lock.acquire():
        print(waiting, file=sys.stderr)
        while not lock.acquire():
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Writable for everyone who may write to the folder: a group of users may launch the same sweep.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make its folder writable.") from None
