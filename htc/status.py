"""`python -m htc.status [cancel | retry] [SWEEP[/RUN]] [runs=runs] [--watch] [--json]`: show the state of runs.

Reads what the runs recorded and asks Slurm about those that are on it. Needs neither PyTorch nor Slurm's accounting.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from htc.arguments import parse_arguments
from htc.cli import run_command
from htc.errors import UserError, nearest
from htc.launch.status.outcome import error_lines
from htc.launch.status.progress import read_progress
from htc.launch.status.states import STATES, RunState, sweep_states
from htc.launch.status.table import runs_table, sweep_summary

USAGE = "python -m htc.status [cancel | retry] [SWEEP[/RUN]] [runs=runs] [--watch] [--json]"
HELP = f"""usage: {USAGE}

Without a sweep, it shows the number of runs per state for each sweep, and the runs that are not done.
With a sweep, it shows all of its runs.

  cancel SWEEP[/RUN]   remove runs from the queue and stop running ones; they can continue later
  retry SWEEP[/RUN]    start failed, cancelled and lost runs again, each with its launcher
  --watch              repeat every five seconds
  --json               print JSON, for programs

States: {", ".join(STATES)}. A `lost` run has no living process and recorded no end;
an `unknown` run is on a Slurm that this machine cannot reach."""
WATCH_SECONDS = 5.0
CLEAR_SCREEN = "\x1b[2J\x1b[H"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return
    arguments = parse_arguments(sys.argv[1:], USAGE, keys=["runs"], options=["--watch", "--json"], max_words=2)
    words, options = arguments.words, arguments.options
    runs = arguments.values.get("runs", "runs")
    action = words.pop(0) if words and words[0] in ("cancel", "retry") else None
    if len(words) > 1 or (action and not words):
        raise UserError(f"{' '.join(sys.argv[1:])} is not understood: name one sweep; usage: {USAGE}.")
    if not Path(runs).is_dir():
        raise UserError(f"runs={runs} is not a folder: name the folder that holds the runs, as in runs=runs.")
    sweep, _, run = words[0].strip("/").partition("/") if words else ("", "", "")
    if action:
        cancel_or_retry(action, sweep_folder(Path(runs), sweep), run)
        return
    while True:
        text = as_json(Path(runs), sweep, run) if "--json" in options else as_text(Path(runs), sweep, run)
        if "--watch" not in options:
            print(text)
            return
        print(f"{CLEAR_SCREEN}{text}", flush=True)
        time.sleep(WATCH_SECONDS)


def cancel_or_retry(action: str, folder: Path, run: str) -> None:
    """Cancel or retry the runs of a sweep, or the one named `run`."""
    from htc.launch.manage import cancel, retry

    states = select_runs(folder, sweep_states(folder, need_slurm=True)[0], run)
    names = [state.name for state in states]
    cancel(folder, names) if action == "cancel" else retry(folder, names)


def sweep_folder(runs: Path, sweep: str) -> Path:
    """Return the folder of a sweep. Raises UserError if there is no such sweep."""
    folder = runs / sweep
    if not folder.is_dir():
        names = sweep_names(runs)
        raise UserError(f"{sweep} is not a sweep below {runs}{nearest(sweep, names)}; there are {', '.join(names)}.")
    return folder


def sweep_names(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))


def select_runs(folder: Path, states: list[RunState], run: str) -> list[RunState]:
    """Return the run named `run`, or all runs for an empty name. Raises UserError if there is no such run."""
    if not run:
        return states
    names = [state.name for state in states]
    found = [state for state in states if state.name == run]
    if not found:
        raise UserError(f"{run} is not a run of {folder}{nearest(run, names)}.")
    return found


def as_text(runs: Path, sweep: str, run: str) -> str:
    """Return the table of one sweep; without a sweep, the runs of all sweeps that are not done and a summary of each.

    Args:
        runs: Folder that holds the sweeps.
        sweep: Name of a sweep; empty for all of them.
        run: Name of a run of this sweep; empty for all of them.
    """
    if sweep:
        folder = sweep_folder(runs, sweep)
        states, remark = sweep_states(folder)
        table = runs_table(select_runs(folder, states, run))
        return "\n".join([table, sweep_summary(folder.name, states), *filter(None, [remark])])
    lines, open_runs, remarks = [], [], []
    for name in sweep_names(runs):
        states, remark = sweep_states(runs / name)
        if states:
            lines.append(sweep_summary(name, states))
            open_runs += [state for state in states if state.state != "done"]
            remarks += [remark] if remark else []
    if open_runs:
        lines = [runs_table(open_runs, with_sweep=True), "", *lines]
    return "\n".join([*(lines or [f"There are no runs below {runs}."]), *dict.fromkeys(remarks)])


def as_json(runs: Path, sweep: str, run: str) -> str:
    """Return a JSON list with one object per run; the arguments are those of `as_text`."""
    folders = [sweep_folder(runs, sweep)] if sweep else [runs / name for name in sweep_names(runs)]
    found: list[dict[str, Any]] = []
    for folder in folders:
        states, remark = sweep_states(folder)
        found += [as_object(state, remark) for state in select_runs(folder, states, run)]
    return json.dumps(found, indent=2)


def as_object(state: RunState, remark: str | None) -> dict[str, Any]:
    """Return the JSON object of one run; `remark` says why Slurm could not be asked."""
    progress = read_progress(state)
    return {
        "sweep": state.folder.parent.name,
        "run": state.name,
        "folder": str(state.folder),
        "state": state.state,
        "step": progress.step,
        "total_steps": progress.total,
        "seconds_left": progress.seconds_left,
        "last_metric": progress.metric,
        "job": state.job_id,
        "node": state.node or None,
        "seconds_since_last_line": progress.age,
        "restarts": state.restarts,
        "error": error_lines(state) if state.state == "failed" else None,
        "remark": remark,
    }


def start() -> None:
    try:
        run_command(main)
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has closed it.
        sys.stderr.close()


if __name__ == "__main__":
    start()
