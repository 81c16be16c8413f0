"""Requests to stop: after Ctrl-C or SIGTERM, the run finishes the step in progress, saves and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised when a run was asked to stop and has saved its state."""


class StopRequest:
    """Context that records a SIGINT or SIGTERM; a SIGINT after it raises KeyboardInterrupt. Contexts may be nested."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, object] = {}
        self._depth = 0

    def __enter__(self) -> StopRequest:
        self._depth += 1
        # Python handles signals only in its main thread; a run in another thread is not stopped by them.
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
