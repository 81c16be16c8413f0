"""Where a run's log goes: log.txt, and a shorter form on the console."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path

from tqdm import tqdm

from htc.runs.redaction import redact


class Console(Enum):
    """When a record is shown on the console, besides log.txt: pass `extra={"console": ...}` to the logger."""

    always = "always"
    without_bar = "without_bar"
    never = "never"


def send_logs(file: Path | None) -> None:
    """Send what the package logs to `file` and, shorter, to the console; without a file, warnings to the console alone.

    A second call, for the next run of a sweep in one process, takes the first one's place.
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
    # Hydra gives the root logger handlers of its own, which would say everything twice.
    logger.propagate = False


class _LogFile(logging.FileHandler):
    """log.txt of a run. Where it cannot be written, on a full disk, that is said once; the console shows the rest."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if not self.told:
            self.told = True
            tqdm.write(f"{self.baseFilename} could not be written: {sys.exc_info()[1]}", file=sys.stderr)


class _Console(logging.Handler):
    """Standard error; on a terminal, above the progress bar. Records may say that they are for the file alone."""

    def emit(self, record: logging.LogRecord) -> None:
        console = getattr(record, "console", Console.always)
        if console is Console.never or (console is Console.without_bar and sys.stderr.isatty()):
            return
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - as the handlers of the standard library do
            self.handleError(record)


class _Redacting(logging.Formatter):
    """Lines without secrets; `short_level` is empty for information and names what is worse."""

    def format(self, record: logging.LogRecord) -> str:
        record.short_level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return redact(super().format(record))
