"""`python -m htc.status [cancel | retry] [SWEEP[/RUN]] [runs=runs] [--watch] [--json]`: how runs stand.

Reads what runs recorded and asks Slurm, where runs are on one; needs neither PyTorch nor Slurm's accounting.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from htc.cli import run_command
from htc.errors import UserError, nearest
from htc.launch.status.progress import RunProgress, progress_of
from htc.launch.status.reports import error_lines, table
from htc.launch.status.states import STATES, RunState, sweep_states
from htc.runs.json_values import items, mapping

USAGE = "python -m htc.status [cancel | retry] [SWEEP[/RUN]] [runs=runs] [--watch] [--json]"
HELP = f"""usage: {USAGE}

Without a sweep: how many runs of each sweep are in which state, and the runs that are not done.
With one: all of its runs.

  cancel SWEEP[/RUN]   take runs out of the queue and stop those under way; they can go on later
  retry SWEEP[/RUN]    start what failed, was cancelled or got lost again, with the launcher it had
  --watch              again every five seconds
  --json               for programs

States: {", ".join(STATES)}. `lost` is a run of which nothing is alive and that recorded no end;
`unknown` is one on a Slurm that cannot be asked from here."""
WATCH_SECONDS = 5.0


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    flags = {argument for argument in arguments if argument.startswith("-")}
    words = [argument for argument in arguments if argument not in flags]
    runs = next((word.removeprefix("runs=") for word in words if word.startswith("runs=")), "runs")
    words = [word for word in words if not word.startswith("runs=")]
    action = words.pop(0) if words and words[0] in ("cancel", "retry") else None
    if unknown := flags - {"--watch", "--json"}:
        raise UserError(f"{sorted(unknown)[0]} is not an option of this command; usage: {USAGE}.")
    if len(words) > 1 or (action and not words):
        raise UserError(f"{' '.join(sys.argv[1:])} is not understood: name one sweep; usage: {USAGE}.")
    if not Path(runs).is_dir():
        raise UserError(f"runs={runs} is not a folder: name the folder that holds the runs, as in runs=runs.")
    sweep, _, run = words[0].strip("/").partition("/") if words else ("", "", "")
    if action:
        act(action, sweep_folder(Path(runs), sweep), run)
        return
    while True:
        text = as_json(Path(runs), sweep, run) if "--json" in flags else as_text(Path(runs), sweep, run)
        if "--watch" not in flags:
            print(text)
            return
        # Back to the top of the screen, and nothing left of the last picture.
        print(f"\x1b[2J\x1b[H{text}", flush=True)
        time.sleep(WATCH_SECONDS)


def act(action: str, folder: Path, run: str) -> None:
    """Cancel or retry the runs of a sweep, or one of them."""
    from htc.launch.manage import cancel, retry

    states = chosen(folder, sweep_states(folder, need_slurm=True)[0], run)
    names = [state.name for state in states]
    cancel(folder, names) if action == "cancel" else retry(folder, names)


def sweep_folder(runs: Path, sweep: str) -> Path:
    """Raises UserError where there is no such sweep."""
    folder = runs / sweep
    if not folder.is_dir():
        names = sweep_names(runs)
        raise UserError(f"{sweep} is not a sweep below {runs}{nearest(sweep, names)}; there are {', '.join(names)}.")
    return folder


def sweep_names(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))


def chosen(folder: Path, states: list[RunState], run: str) -> list[RunState]:
    """All runs, or the one of that name. Raises UserError where there is none."""
    if not run:
        return states
    names = [state.name for state in states]
    found = [state for state in states if state.name == run]
    if not found:
        raise UserError(f"{run} is not a run of {folder}{nearest(run, names)}.")
    return found


def as_text(runs: Path, sweep: str, run: str) -> str:
    """The table of one sweep, or of all sweeps and of what in them is not done."""
    if sweep:
        folder = sweep_folder(runs, sweep)
        states, remark = sweep_states(folder)
        return "\n".join(
            [runs_table(chosen(folder, states, run)), summary(folder.name, states), *filter(None, [remark])]
        )
    lines, open_runs, remarks = [], [], []
    for name in sweep_names(runs):
        states, remark = sweep_states(runs / name)
        if states:
            lines.append(summary(name, states))
            open_runs += [state for state in states if state.state != "done"]
            remarks += [remark] if remark else []
    if open_runs:
        lines = [runs_table(open_runs, with_sweep=True), "", *lines]
    return "\n".join([*(lines or [f"There are no runs below {runs}."]), *dict.fromkeys(remarks)])


def summary(name: str, states: list[RunState]) -> str:
    counts = Counter(state.state for state in states)
    words = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    return f"{name}: {', '.join(words) or 'no runs'}"


def runs_table(states: list[RunState], *, with_sweep: bool = False) -> str:
    """A line a run, and below a failed one why it failed."""
    header = ("RUN", "STATE", "STEP", "ETA", "LAST METRIC", "JOB", "NODE", "LAST LINE", "RESTARTS")
    rows, reasons = [], {}
    for number, state in enumerate(states, start=1):
        now = progress_of(state)
        name = f"{state.folder.parent.name}/{state.name}" if with_sweep else state.name
        rows.append((name, state.state, steps(now), duration(now.seconds_left), now.metric, state.job_id or "",
                     node_of(state), duration(now.age), str(restarts(state))))  # fmt: skip
        if state.state == "failed":
            reasons[number] = error_lines(state)
    lines = table(header, rows).split("\n")
    shown = [lines[0]]
    for number, line in enumerate(lines[1:], start=1):
        shown += [line, *(f"    {reason}" for reason in reasons.get(number, []))]
    return "\n".join(shown)


def as_json(runs: Path, sweep: str, run: str) -> str:
    """A list with an object a run."""
    folders = [sweep_folder(runs, sweep)] if sweep else [runs / name for name in sweep_names(runs)]
    found: list[dict[str, Any]] = []
    for folder in folders:
        states, remark = sweep_states(folder)
        found += [as_object(state, remark) for state in chosen(folder, states, run)]
    return json.dumps(found, indent=2)


def as_object(state: RunState, remark: str | None) -> dict[str, Any]:
    now = progress_of(state)
    return {
        "sweep": state.folder.parent.name,
        "run": state.name,
        "folder": str(state.folder),
        "state": state.state,
        "step": now.step,
        "total_steps": now.total,
        "seconds_left": now.seconds_left,
        "last_metric": now.metric,
        "job": state.job_id,
        "node": node_of(state) or None,
        "seconds_since_last_line": now.age,
        "restarts": restarts(state),
        "error": error_lines(state) if state.state == "failed" else None,
        "remark": remark,
    }


def restarts(state: RunState) -> int:
    """How often the run went on after it had stopped."""
    return len(items(state.record.get("resumes")))


def node_of(state: RunState) -> str:
    """Where it runs, or ran last; of a queued job, why it waits."""
    if state.job is not None and state.job.is_pending:
        # Slurm's reason is what tells a job that waits its turn from one that never will start.
        return f"({state.job.reason})"
    if state.job is not None and state.job.node:
        return state.job.node
    resumes = items(state.record.get("resumes")) or [{}]
    return str(mapping(resumes[-1]).get("host") or state.record.get("host") or "")


def steps(now: RunProgress) -> str:
    return "" if now.step is None else f"{now.step}/{now.total if now.total is not None else '?'}"


def duration(seconds: float | None) -> str:
    """`42s`, `3m`, `2h05m`, `3d04h`."""
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


def start() -> None:
    try:
        run_command(main)
    except BrokenPipeError:
        # `| head` has seen enough.
        sys.stderr.close()


if __name__ == "__main__":
    start()
