"""Reports of a launch and of a dry run: the runs to start and those that are left as they are."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from htc.launch.plan import PlannedRun
from htc.launch.status.table import format_table
from htc.launch.submission import Submission

SHOWN_ROWS = 60


def launch_report(folder: Path, planned: Sequence[PlannedRun], submissions: Sequence[Submission], asked: int) -> str:
    """Return the text that shows what was started, by job and folder, and how many runs were left as they are.

    Args:
        folder: Folder of the sweep.
        planned: Runs of the launch.
        submissions: What the launch submitted.
        asked: Number of rows, of which several may be the same run.
    """
    jobs = {run: job or "" for each in submissions for run, job in zip(each.runs, each.jobs, strict=True)}
    started = [each for each in planned if each.row.folder in jobs]
    left = Counter(each.state for each in planned if each.row.folder not in jobs)
    lines = []
    if started:
        rows = [(jobs[each.row.folder] or "-", each.action, str(folder / each.row.folder)) for each in started]
        lines += format_table(("JOB", "ACTION", "FOLDER"), rows[:SHOWN_ROWS])
        if len(rows) > SHOWN_ROWS:
            lines.append(f"... and {len(rows) - SHOWN_ROWS} more.")
    words = [f"{len(started)} started" if started else "nothing to start"]
    words += [f"{number} {state}" for state, number in left.items()]
    if asked > len(planned):
        words.append(f"{asked - len(planned)} rows are the same run as another")
    lines.append(f"{folder.name}: {', '.join(words)}. See them with: {status_command(folder)}")
    return "\n".join(lines)


def status_command(folder: Path, *action: str) -> str:
    """Return the command that shows the runs of a sweep's folder, or does another action of htc.status with them."""
    where = [] if folder.parent == Path("runs") else [f"runs={folder.parent}"]
    return shlex.join(["python", "-m", "htc.status", *action, folder.name, *where])


def dry_run_report(
    planned: Sequence[PlannedRun], rows: Sequence[Sequence[str]], estimates: Sequence[float | None]
) -> str:
    """Return the text that shows each run with its state, action, cost and overrides.

    Args:
        planned: Runs of the launch.
        rows: Overrides of each run to show.
        estimates: Cost of each run in GPU hours, or in hours of its process on the CPU; None if no similar run was
            measured.
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
        summary += f" and those of {unknown} runs for which no similar run was measured (run one of them first)"
    header = ("RUN", "STATE", "ACTION", "GPU HOURS", "OVERRIDES")
    return "\n".join([*format_table(header, lines), f"{summary}. Nothing was started."])
