"""What launching and status print: plain tables that fit a terminal and a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from htc.launch.status.states import RunState
from htc.runs.folder import RunFolder
from htc.runs.json_values import mapping, number

TAIL_BYTES = 20_000


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what they hold; the last one as it comes."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    padded = (
        [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]] for line in lines
    )  # fmt: skip
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def error_lines(state: RunState, number: int = 5) -> list[str]:
    """Why a run failed: the recorded cause, and the last lines of its log where these say more."""
    cause = state.record.get("error")
    lines = [str(cause)] if cause else []
    tail = last_lines(state.folder / "log.txt", number)
    if cause and any("Traceback" in line or "Error" in line for line in tail):
        return [*lines, *(line for line in tail if line not in lines)]
    return lines or last_lines(job_log(state), number) or tail or ["no reason was recorded"]


def job_log(state: RunState) -> Path:
    """Where the run's process printed to; a path that need not be there."""
    if state.submission is None:
        return state.folder / "log.txt"
    if state.submission.launcher == "slurm":
        return state.submission.path / f"{state.job_id}_0_log.err"
    return state.submission.path / f"{state.index}.log"


def last_lines(path: Path, number: int) -> list[str]:
    """The last lines of a text file that are not empty; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-number:]


def results_text(folder: Path) -> str:
    """`mask AP 34.1, box AP 38.0` of a finished run."""
    results: Mapping[str, Any] = RunFolder(folder).read_results()
    figures = ((number(mapping(results.get(key)).get("AP")), word) for key, word in (("segm", "mask"), ("bbox", "box")))
    return ", ".join(f"{word} AP {100 * value:.1f}" for value, word in figures if value is not None)
