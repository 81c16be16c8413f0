"""Waiting for what was launched: a line for each run that ends, and the reason of a failure as soon as it happens."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from htc.errors import UserError
from htc.launch.local import LocalManager, start_manager
from htc.launch.status.reports import error_lines, results_text
from htc.launch.status.states import RunState, sweep_states
from htc.launch.submission import Submission

POLL = 3.0


def follow(
    folder: Path, submissions: Sequence[Submission], runs: Sequence[str], options: Mapping[str, Any]
) -> list[str]:
    """Wait for the runs where `wait` is set -> those that failed; else leave them to Slurm or the background."""
    local = [submission for submission in submissions if submission.launcher == "local"]
    progress = Progress(folder, runs)
    if not options["wait"]:
        for submission in local:
            start_manager(submission)
        return []
    for submission in local:
        manager = LocalManager(submission)
        manager.run(progress.ended, show=manager.jobs == 1)
        if manager.stopped:
            print("stopped: the same command goes on from here.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
    # Runs on Slurm, and those that were under way already.
    silent_since = None
    while True:
        try:
            if not progress.update():
                return progress.failed
            silent_since = None
        except UserError:
            # Slurm's controller restarts now and then; the runs do not mind.
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > 600:
                raise
        time.sleep(POLL)


class Progress:
    """Says what has changed since the last look."""

    def __init__(self, folder: Path, runs: Sequence[str]) -> None:
        self.folder, self.runs = folder, set(runs)
        self.told: dict[str, str] = {}
        self.failed: list[str] = []
        self.counted = ""

    def ended(self, name: str) -> None:
        """Tell how one run ended."""
        self._look(only=name)

    def update(self) -> bool:
        """Tell what is new -> whether anything is still under way."""
        return self._look()

    def _look(self, only: str | None = None) -> bool:
        found, _ = sweep_states(self.folder, need_slurm=True)
        states = [state for state in found if state.name in self.runs]
        for state in states:
            over = not state.is_live and (only is None or state.name == only)
            if over and self.told.get(state.name) != state.state:
                self.told[state.name] = state.state
                self._tell(state)
        counts = Counter(state.state for state in states)
        counted = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        if counted != self.counted and len(states) > 1:
            self.counted = counted
            print(f"{self.folder.name}: {counted}", file=sys.stderr, flush=True)
        return any(state.is_live for state in states)

    def _tell(self, state: RunState) -> None:
        if state.state == "done":
            print(f"{state.folder}: done, {results_text(state.folder)}", file=sys.stderr, flush=True)
            return
        self.failed.append(state.name)
        lines = "".join(f"\n    {line}" for line in error_lines(state)) if state.state == "failed" else ""
        print(f"{state.folder}: {state.state}{lines}", file=sys.stderr, flush=True)
