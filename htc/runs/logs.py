"""Logging of a run: to log.txt, and in a shorter form to the console."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path

from tqdm import tqdm

from htc.runs.redaction import redact


class Console(Enum):
    """When a record is shown on the console as well as in log.txt: pass `extra={"console": ...}` to the logger."""

    always = "always"
    without_bar = "without_bar"
    """Only where no progress bar is shown, that is, if the console is not a terminal."""
    never = "never"


def send_logs(file: Path | None) -> None:
    """Send the package's log records to `file` and, in a shorter form, to the console.

    Without a file, only warnings are sent, to the console. Each call replaces the handlers of the previous one: several
    runs of a sweep may follow each other in one process.
    """
    logger = logging.getLogger("htc")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Console | _LogFile)]:
        logger.removeHandler(handler)
        handler.close()
    console = _Console()
    console.setFormatter(_Redacting("%(asctime)s %(short_level)s%(message)s", "%H:%M:%S"))
    console.setLevel(logging.INFO if file is not None else logging.WARNING)
    logger.addHandler(console)
    if file is not None:
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Hydra adds handlers to the root logger, which would show every record twice.
    logger.propagate = False


class _LogFile(logging.FileHandler):
    """Handler of log.txt. If the file cannot be written (full disk), this is reported once; the console goes on."""

    reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if not self.reported:
            self.reported = True
            tqdm.write(f"{self.baseFilename} could not be written: {sys.exc_info()[1]}", file=sys.stderr)


class _Console(logging.Handler):
    """Handler of standard error; on a terminal, it writes above the progress bar. It respects a record's `Console`."""

    def emit(self, record: logging.LogRecord) -> None:
        console = getattr(record, "console", Console.always)
        if console is Console.never or (console is Console.without_bar and sys.stderr.isatty()):
            return
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - as the handlers of the standard library do
            self.handleError(record)


class _Redacting(logging.Formatter):
    """Formatter that redacts secrets. `short_level` is the level's name for warnings and errors, else empty."""

    def format(self, record: logging.LogRecord) -> str:
        record.short_level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return redact(super().format(record))
