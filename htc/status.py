"""`python -m htc.status [ACTION] [SWEEP | SWEEP/ROW | RUN] ... [runs=runs]`: show and manage runs and sweeps.

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
from htc.errors import UserError
from htc.launch.status.outcome import error_lines
from htc.launch.status.progress import read_progress, read_state_results
from htc.launch.status.selection import select
from htc.launch.status.states import STATES, RunState, run_states
from htc.launch.status.table import runs_table, sweep_summary
from htc.runs.json_values import mapping, number
from htc.runs.pool import SelectedRun, all_rows

ACTIONS = ("cancel", "retry", "rename", "forget", "clean", "delete", "adopt")
USAGE = "python -m htc.status [ACTION] [SWEEP | SWEEP/ROW | RUN] ... [runs=runs] [--watch | --wait] [--json]"
HELP = f"""usage: {USAGE}

Without a name, it shows the number of runs per state for each sweep, and the runs that are not done.
With names, it shows these runs. ROW is a label or a run. A run may be shortened to its beginning or to its signature,
and labels and runs may be patterns, such as '*mask_flow*'.

  cancel NAME ...      remove runs from the queue and stop running ones; they can continue later
  retry NAME ...       start failed, cancelled, lost and missing runs again, each with its launcher
  rename SWEEP NEW     give a sweep another name
  forget SWEEP[/ROW]   remove a sweep or rows of it; the runs stay
  clean NAME ...       delete checkpoints of done runs, all but the newest (--all: that one, too)
  delete RUN ...       delete whole runs; rows that select them become missing
  adopt OLD_RUNS       move runs of the old layout, runs/SWEEP/RUN, into runs= (--dry-run: show how)
  --yes                delete without asking
  --watch              repeat every five seconds, until all runs have ended
  --wait               wait until all runs have ended; exit with 1 unless all are done
  --json               print JSON, for programs

States: {", ".join(STATES)}. A `trained` run lacks an evaluation that a sweep asks for. A `lost` run has no
living process and recorded no end. The folder of a `missing` run does not exist. An `unknown` run is on a Slurm that
this machine cannot reach."""
WATCH_SECONDS = 5.0
CLEAR_SCREEN = "\x1b[2J\x1b[H"
NO_SWEEP = "no sweep"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return
    options = ["--watch", "--wait", "--json", "--yes", "--all", "--dry-run"]
    arguments = parse_arguments(sys.argv[1:], USAGE, keys=["runs"], options=options, max_words=1000)
    words = arguments.words
    pool = Path(arguments.values.get("runs", "runs"))
    action = words.pop(0) if words and words[0] in ACTIONS else None
    if action == "adopt":
        adopt_runs(words, pool, arguments.options)
        return
    if not pool.is_dir():
        raise UserError(f"runs={pool} is not a folder: name the folder that holds the runs, as in runs=runs.")
    if action:
        manage(action, pool, words, arguments.options)
    elif "--wait" in arguments.options:
        sys.exit(wait(pool, words))
    else:
        show(pool, words, arguments.options)


def manage(action: str, pool: Path, words: list[str], options: set[str]) -> None:
    """Do an action with the runs and sweeps that words name."""
    from htc.launch import housekeeping
    from htc.launch.manage import cancel, retry

    if not words or (action == "rename" and len(words) != 2):
        needed = "two names, the old and the new one" if action == "rename" else "the name of a sweep or of a run"
        raise UserError(f"{action} needs {needed}; usage: {USAGE}.")
    if action == "rename":
        housekeeping.rename(pool, *words)
    elif action == "forget":
        housekeeping.forget(pool, words)
    elif action == "clean":
        housekeeping.clean(pool, words, everything="--all" in options, confirmed="--yes" in options)
    elif action == "delete":
        housekeeping.delete(pool, words, confirmed="--yes" in options)
    else:
        act = cancel if action == "cancel" else retry
        act(pool, select(pool, words), " ".join(words))


def adopt_runs(words: list[str], pool: Path, options: set[str]) -> None:
    """Move the runs of an old folder into the pool."""
    from htc.launch.adopt import adopt

    if len(words) != 1 or not Path(words[0]).is_dir():
        raise UserError(f"adopt needs one folder of old runs: htc.status adopt OLD_RUNS [runs={pool}].")
    adopt(Path(words[0]), pool, dry_run="--dry-run" in options)


def wait(pool: Path, words: list[str]) -> int:
    """Wait until the runs have ended, and report each end. Return 0 if all are done, else 1."""
    from htc.launch.wait import wait_for_rows

    return 1 if wait_for_rows(pool, select(pool, words)) else 0


def show(pool: Path, words: list[str], options: set[str]) -> None:
    """Print the state of the runs, with `--watch` again and again until all have ended."""
    while True:
        text, live = as_json(pool, words) if "--json" in options else as_text(pool, words)
        if "--watch" not in options:
            print(text)
            return
        print(f"{CLEAR_SCREEN}{text}", flush=True)
        if not live:
            return
        time.sleep(WATCH_SECONDS)


def as_text(pool: Path, words: list[str]) -> tuple[str, bool]:
    """Return a table of the runs that words name, and whether any of them is under way.

    Without words, these are the runs that are not done, with a summary of each sweep.
    """
    if words:
        states, remark = run_states(pool, select(pool, words))
        lines = [runs_table(states), sweep_summary(" ".join(words), states)]
        return "\n".join([*lines, *filter(None, [remark])]), _any_live(states)
    rows = all_rows(pool)
    states, remark = run_states(pool, [row for _, row in rows])
    by_sweep: dict[str, list[RunState]] = {}
    for (sweep, _), state in zip(rows, states, strict=True):
        by_sweep.setdefault(sweep or NO_SWEEP, []).append(state)
    lines = [sweep_summary(name, of_sweep) for name, of_sweep in by_sweep.items()]
    # A run that several sweeps select is shown once.
    open_runs = {state.name: state for state in states if state.state != "done"}
    if open_runs:
        lines = [runs_table(list(open_runs.values())), "", *lines]
    lines = lines or [f"There are no runs below {pool}."]
    return "\n".join([*lines, *filter(None, [remark])]), _any_live(states)


def as_json(pool: Path, words: list[str]) -> tuple[str, bool]:
    """Return a JSON list with one object per row, and whether any run is under way."""
    rows = select(pool, words)
    states, remark = run_states(pool, rows)
    sweeps = _sweeps_of_runs(pool)
    found = [as_object(state, sweeps.get(state.name, []), remark) for state in states]
    return json.dumps(found, indent=2), _any_live(states)


def as_object(state: RunState, sweeps: list[str], remark: str | None) -> dict[str, Any]:
    """Return the JSON object of one run.

    Args:
        state: the run's state.
        sweeps: names of the sweeps that select the run.
        remark: why Slurm could not be asked.
    """
    progress = read_progress(state)
    results = read_state_results(state)
    row = state.row or SelectedRun(state.name)
    return {
        "run": state.name,
        "label": row.label,
        "sweeps": sweeps,
        "folder": str(state.folder),
        "state": state.state,
        "step": progress.step,
        "total_steps": progress.total,
        "seconds_left": progress.seconds_left,
        "last_metric": progress.metric,
        "box_AP": number(mapping(results.get("bbox")).get("AP")),
        "mask_AP": number(mapping(results.get("segm")).get("AP")),
        "evaluation": row.evaluation,
        "settings": state.record.identity,
        "job": state.job_id,
        "node": state.node or None,
        "seconds_since_last_line": progress.age,
        "restarts": state.restarts,
        "error": error_lines(state) if state.state == "failed" else None,
        "remark": remark,
    }


def _sweeps_of_runs(pool: Path) -> dict[str, list[str]]:
    sweeps: dict[str, list[str]] = {}
    for sweep, row in all_rows(pool):
        if sweep is not None and sweep not in sweeps.setdefault(row.run, []):
            sweeps[row.run].append(sweep)
    return sweeps


def _any_live(states: list[RunState]) -> bool:
    return any(state.is_live for state in states)


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
