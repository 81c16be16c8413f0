"""What launching and status print: plain tables that fit a terminal and a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.launch.status.states import RunState
from htc.launch.submission import Submission
from htc.runs.folder import RunFolder
from htc.runs.json_values import mapping, number

if TYPE_CHECKING:
    from htc.launch.submit import PlannedRun

SHOWN_ROWS = 60
TAIL_BYTES = 20_000


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what they hold; the last one as it comes."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    padded = (
        [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]] for line in lines
    )  # fmt: skip
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def launch_report(folder: Path, planned: Sequence[PlannedRun], submissions: Sequence[Submission], asked: int) -> str:
    """What was started, by job and folder, and what was left as it is."""
    jobs = {run: job or "" for each in submissions for run, job in zip(each.runs, each.jobs, strict=True)}
    started = [each for each in planned if each.row.folder in jobs]
    left = Counter(each.state for each in planned if each.row.folder not in jobs)
    lines = []
    if started:
        rows = [(jobs[each.row.folder] or "-", each.action, str(folder / each.row.folder)) for each in started]
        lines.append(table(("JOB", "ACTION", "FOLDER"), rows[:SHOWN_ROWS]))
        if len(rows) > SHOWN_ROWS:
            lines.append(f"... and {len(rows) - SHOWN_ROWS} more.")
    words = [f"{len(started)} started" if started else "nothing to start"]
    words += [f"{number} {state}" for state, number in left.items()]
    if asked > len(planned):
        words.append(f"{asked - len(planned)} rows are the same run as another")
    lines.append(f"{folder.name}: {', '.join(words)}. See them with: python -m htc.status {folder.name}")
    return "\n".join(lines)


def dry_run_report(
    planned: Sequence[PlannedRun], rows: Sequence[Sequence[str]], estimates: Sequence[float | None]
) -> str:
    """The runs, how they stand, their overrides, and the GPU hours that they will cost (hours of the process on CPU).

    `estimates`: GPU hours of each run, None where nothing like it was measured.
    """
    lines = []
    total, unknown = 0.0, 0
    for each, overrides, hours in zip(planned, rows, estimates, strict=True):
        cost = ""
        if each.action != "leave":
            cost = "?" if hours is None else f"{hours:.2f}"
            total += hours or 0.0
            unknown += hours is None
        lines.append((each.row.folder, each.state, each.action, cost, " ".join(overrides)))
    counted = Counter(each.action for each in planned)
    words = ", ".join(f"{counted[action]} to {action}" for action in ("start", "resume", "leave") if counted[action])
    summary = f"{len(planned)} runs: {words}; about {total:.2f} GPU hours"
    if unknown:
        summary += f" and those of {unknown} runs that nothing measured here is like (run one of them first)"
    header = ("RUN", "STATE", "ACTION", "GPU HOURS", "OVERRIDES")
    return table(header, lines) + f"\n{summary}. Nothing was started."


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
