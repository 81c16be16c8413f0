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
SHOWN_REMARKS = 10


def launch_report(planned: Sequence[PlannedRun], submissions: Sequence[Submission], asked: int) -> str:
    """Return the text that shows what was started, by job and folder, and how many runs were left as they are.

    Args:
        planned: Runs of the launch, of one pool.
        submissions: What the launch submitted.
        asked: Number of rows, of which several may be the same run.
    """
    jobs = {run: job for each in submissions for run, job in _jobs_of(each).items()}
    started = [each for each in planned if each.row.folder in jobs]
    left = Counter(each.state for each in planned if each.row.folder not in jobs)
    lines = remarks(started)
    if started:
        rows = [
            (jobs[each.row.folder] or "-", each.action, str(each.pool / each.row.folder), each.label)
            for each in started
        ]
        lines += format_table(("JOB", "ACTION", "FOLDER", "LABEL"), rows[:SHOWN_ROWS])
        if len(rows) > SHOWN_ROWS:
            lines.append(f"... and {len(rows) - SHOWN_ROWS} more.")
    words = [f"{len(started)} started" if started else "nothing to start"]
    words += [f"{number} {state}" for state, number in left.items()]
    if asked > len(planned):
        words.append(f"{asked - len(planned)} rows are the same run as another")
    sweeps = list(dict.fromkeys(request.sweep for each in planned for request in each.requests))
    hints = ", ".join(status_command(planned[0].pool, sweep) for sweep in sweeps)
    lines.append(f"{', '.join(sweeps)}: {', '.join(words)}. See them with: {hints}")
    return "\n".join(lines)


def _jobs_of(submission: Submission) -> dict[str, str]:
    """Return the job of each run: its id, the ids of all jobs that share the runs, or nothing for local runs."""
    if submission.is_shared:
        shared = f"{submission.jobs[0]}..{len(submission.jobs) - 1}" if len(submission.jobs) > 1 else submission.jobs[0]
        return dict.fromkeys(submission.runs, shared or "")
    return {run: job or "" for run, job in zip(submission.runs, submission.jobs, strict=True)}


def status_command(pool: Path, *words: str) -> str:
    """Return the command of htc.status with these words: an action and the name of a sweep or of a run."""
    where = [] if pool == Path("runs") else [f"runs={pool}"]
    return shlex.join(["python", "-m", "htc.status", *words, *where])


def remarks(planned: Sequence[PlannedRun]) -> list[str]:
    """Return what the user should know about runs before they are started, one line each."""
    lines = [f"note: {each.row.folder} {each.remark}." for each in planned if each.remark]
    hidden = len(lines) - SHOWN_REMARKS
    return lines[:SHOWN_REMARKS] + ([f"note: the same holds for {hidden} more."] if hidden > 0 else [])


def dry_run_report(
    planned: Sequence[PlannedRun], rows: Sequence[Sequence[str]], estimates: Sequence[float | None], asked: int
) -> str:
    """Return the text that shows each run with its state, action, cost and overrides.

    Args:
        planned: Runs of the launch.
        rows: Overrides of each run to show.
        estimates: Cost of each run in GPU hours, or in hours of its process on the CPU; None if no similar run was
            measured.
        asked: Number of rows, of which several may be the same run.
    """
    lines = []
    total, unknown = 0.0, 0
    for each, overrides, hours in zip(planned, rows, estimates, strict=True):
        cost = ""
        if each.action in ("start", "resume"):
            cost = "?" if hours is None else f"{hours:.2f}"
            total += hours or 0.0
            unknown += hours is None
        lines.append((each.row.folder, each.label, each.state, each.action, cost, " ".join(overrides)))
    counted = Counter(each.action for each in planned)
    actions = ("start", "resume", "evaluate", "leave")
    words = ", ".join(f"{counted[action]} to {action}" for action in actions if counted[action])
    of_rows = f" for {asked} rows" if asked > len(planned) else ""
    summary = f"{len(planned)} runs{of_rows}: {words}; about {total:.2f} GPU hours"
    if unknown:
        summary += f" and those of {unknown} runs for which no similar run was measured (run one of them first)"
    header = ("RUN", "LABEL", "STATE", "ACTION", "GPU HOURS", "OVERRIDES")
    shown = remarks([each for each in planned if each.action != "leave"])
    return "\n".join([*format_table(header, lines), *shown, f"{summary}. Nothing was started."])
