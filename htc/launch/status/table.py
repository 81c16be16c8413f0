"""Tables of runs as plain text, for a terminal or a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from htc.launch.status.differences import varying_columns
from htc.launch.status.outcome import error_lines
from htc.launch.status.progress import RunProgress, read_progress
from htc.launch.status.states import STATES, RunState

HEADER = ("STATE", "STEP", "ETA", "LAST METRIC", "JOB", "NODE", "LAST LINE", "RESTARTS")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align a header and rows in columns, and return one line for each; the last column is not padded."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    padded = (
        [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]] for line in lines
    )  # fmt: skip
    return ["  ".join(cells).rstrip() for cells in padded]


def runs_table(states: Sequence[RunState]) -> str:
    """Return a table with one line per run, with the settings in which the runs differ, and below it why it failed.

    A run that is done, and one of whose later evaluations failed, also shows why.
    """
    progress = [read_progress(state) for state in states]
    first = {"RUN": [state.name for state in states]}
    labels = [state.row.label or "" if state.row else "" for state in states]
    if any(labels):
        first = {"LABEL": labels, **first}
    varying = varying_columns([state.record.identity for state in states])
    columns = [*first.values(), *varying.values()]
    cells = [run_cells(state, of_run) for state, of_run in zip(states, progress, strict=True)]
    rows = [(*(column[i] for column in columns), *cells[i]) for i in range(len(states))]
    header, *lines = format_table((*first, *varying, *HEADER), rows)
    shown = [header]
    for state, line in zip(states, lines, strict=True):
        shown.append(line)
        if state.state == "failed" or (state.state == "done" and state.record.error):
            shown += [f"    {reason}" for reason in error_lines(state)]
    return "\n".join(shown)


def run_cells(state: RunState, progress: RunProgress) -> tuple[str, ...]:
    """Return the cells of one run, in the order of HEADER."""
    return (
        state.state,
        format_steps(progress),
        format_duration(progress.seconds_left),
        progress.metric,
        state.job_id or "",
        state.node,
        format_duration(progress.age),
        str(state.restarts),
    )


def sweep_summary(name: str, states: Sequence[RunState]) -> str:
    """Return how many runs of a sweep are in which state, such as `components: 1 running, 3 done`."""
    numbers = Counter(state.state for state in states)
    words = [f"{numbers[state]} {state}" for state in STATES if numbers[state]]
    return f"{name}: {', '.join(words) or 'no runs'}"


def format_steps(progress: RunProgress) -> str:
    """Return `20/750`, `20/?` if the length of the run is unknown, or nothing before the first step."""
    if progress.step is None:
        return ""
    return f"{progress.step}/{progress.total if progress.total is not None else '?'}"


def format_duration(seconds: float | None) -> str:
    """Return `42s`, `3m`, `2h05m` or `3d04h`; nothing for None."""
    if seconds is None:
        return ""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)}s"
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"
