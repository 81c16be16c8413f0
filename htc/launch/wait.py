"""Wait for launched runs: report each run that ends, and why a failed one failed, as soon as it happens."""

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
from htc.launch.status.outcome import error_lines
from htc.launch.status.states import RunState, run_states
from htc.launch.submission import Submission
from htc.runs.folder import RunFolder
from htc.runs.pool import SelectedRun
from htc.runs.results import ap_summary

POLL_SECONDS = 3.0
SLURM_SILENCE_SECONDS = 600.0
"""How long Slurm may fail to answer before waiting ends: its controller restarts now and then, the runs continue."""


def wait_for_runs(
    pool: Path, submissions: Sequence[Submission], rows: Sequence[SelectedRun], options: Mapping[str, Any]
) -> list[str]:
    """Wait until the runs have ended if the option `wait` is set; else leave them to Slurm or to the background.

    Args:
        pool: Folder of all runs.
        submissions: What this launch submitted. Those of the local launcher are worked on here.
        rows: All runs to report, including those that were under way already.
        options: The launcher's options.

    Returns:
        The names of the runs that failed.

    Raises:
        UserError: Slurm does not answer for ten minutes.
    """
    local = [submission for submission in submissions if submission.launcher == "local"]
    reporter = RunReporter(pool, rows)
    if not options["wait"]:
        for submission in local:
            start_manager(submission)
        return []
    for submission in local:
        manager = LocalManager(submission)
        manager.run(reporter.report_run, show=manager.jobs == 1)
        if manager.stopped:
            print("stopped: the same command goes on from here.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
    # Runs on Slurm, and runs that were under way already.
    return _watch(reporter)


def wait_for_rows(pool: Path, rows: Sequence[SelectedRun]) -> list[str]:
    """Wait until runs that others work on have ended; return the names of those that are not done.

    Raises UserError where Slurm does not answer for ten minutes.
    """
    return _watch(RunReporter(pool, rows))


def _watch(reporter: RunReporter) -> list[str]:
    silent_since = None
    while True:
        try:
            if not reporter.report_changes():
                return reporter.failed
            silent_since = None
        except UserError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > SLURM_SILENCE_SECONDS:
                raise
        time.sleep(POLL_SECONDS)


class RunReporter:
    """Reports on standard error what has changed in the states of runs since the last report."""

    def __init__(self, pool: Path, rows: Sequence[SelectedRun]) -> None:
        self.pool, self.rows = pool, rows
        self.failed: list[str] = []
        """Names of the runs that ended without a result."""
        self._reported: dict[str, str] = {}
        self._last_counts = ""

    def report_run(self, name: str) -> None:
        """Report how one run ended."""
        self._report(only=name)

    def report_changes(self) -> bool:
        """Report every run that has ended since the last report. Return whether any run is still under way."""
        return self._report()

    def _report(self, only: str | None = None) -> bool:
        states, _ = run_states(self.pool, self.rows, need_slurm=True)
        for state in states:
            is_over = not state.is_live and (only is None or state.name == only)
            if is_over and self._reported.get(state.name) != state.state:
                self._reported[state.name] = state.state
                self._report_end(state)
        numbers = Counter(state.state for state in states)
        counts = ", ".join(f"{number} {name}" for name, number in sorted(numbers.items()))
        if counts != self._last_counts and len(states) > 1:
            self._last_counts = counts
            print(f"{self.pool}: {counts}", file=sys.stderr, flush=True)
        return any(state.is_live for state in states)

    def _report_end(self, state: RunState) -> None:
        if state.state == "done":
            results = RunFolder(state.folder).read_results(state.row.evaluation if state.row else None)
            print(f"{state.folder}: done, {ap_summary(results)}", file=sys.stderr, flush=True)
            return
        self.failed.append(state.name)
        lines = "".join(f"\n    {line}" for line in error_lines(state)) if state.state == "failed" else ""
        print(f"{state.folder}: {state.state}{lines}", file=sys.stderr, flush=True)
