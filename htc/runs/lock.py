"""A lock that lets one process at a time use a run's folder.

It is a POSIX record lock, which belongs to the process: a crash or `kill -9` releases it, and neither the workers of a
data loader nor wandb's service inherit it. Network file systems share it between hosts if they support locks;
otherwise a warning is logged.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from htc.errors import UserError

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)
"""Errors that mean that another process holds the lock."""


class RunLock:
    """Lock of a run's folder, held from `acquire` to `release` or to the end of the process.

    A process must have at most one object per folder: closing the lock file releases the lock for the whole process.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._file: TextIO | None = None

    def acquire(self) -> None:
        """Create the folder if it is missing, and take the lock.

        Raises UserError, naming the other process, if the lock is held, and OSError if the folder cannot be used.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            # A parent folder cannot be created, for example below /proc.
            raise UserError(f"{self.path.parent} cannot be created: choose another folder with runs=DIR.") from None
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            if error.errno in HELD:
                raise UserError(
                    f"{self.path.parent} is in use by {holder or 'another process'}: wait for that run or stop it; "
                    f"if that host is gone for good, delete {self.path}."
                ) from None
            logger.warning("%s has no locks (%s): do not start the same run twice at once", self.path.parent, error)
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_in_use(folder: Path) -> bool:
    """Return whether another process holds the RunLock of this folder."""
    return is_locked(folder / LOCK_NAME, fcntl.lockf)


def is_locked(path: Path, lock: Callable[[int, int], object]) -> bool:
    """Return whether a file's lock is held. `lock` is the function that takes it: fcntl.flock or fcntl.lockf."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A shared lock, so that two processes that ask at once do not take each other for the holder.
        lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in HELD
    finally:
        os.close(descriptor)
    return False
