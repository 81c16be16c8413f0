"""Kill a training again and again, and compare its result with that of an undisturbed one.

    python -m tests.robustness.kills [kills=200] [seed=0] [workers=1] [steps=60] [minutes=60] [out=FILE]

Every attempt runs `python -m htc.run ...` on small built-in data and is killed by SIGKILL: in the middle of a save (as
soon as the temporary file of a checkpoint appears, plus a random delay), at a random place of the training, or at a
random moment between start and end. The same command is started again until the run has finished; then a run with the
next seed begins, until the number of kills is reached. Each run is compared with the same command left alone: the
weights, their moving average and the optimiser's state (to the last bit), the steps and losses of metrics.jsonl, the
results, and the history that wandb recorded. Attempts are forked from one process that has imported everything, because
imports take seconds in which a kill would hit nothing of interest.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from htc.checkpoint.files import newest_checkpoint, read_checkpoint
from htc.cli import read_settings, run_command
from tests.helpers.tiny_run import tiny
from tests.robustness.forks import has_ended, import_everything, start, wait

DEFAULTS = {"kills": "200", "seed": "0", "workers": "1", "steps": "60", "minutes": "60", "out": ""}
LONGEST_DELAY_IN_SAVE = 0.02
"""Seconds between the appearance of a temporary file and the kill; a save of the small network takes about as long."""
SHARE_IN_SAVES, SHARE_BY_PROGRESS = 0.4, 0.5
"""Shares of the kills that aim at a save, and at a place between here and the end of the training. The others come at
any moment of the time that an undisturbed run takes, its start and end included."""
LONGEST_STEP = 0.1
"""A kill by progress comes within this many seconds after a line of metrics."""
KILLS_OF_A_RUN = 25
"""Largest number of kills of one run, so that each run ends."""
KILLS_AFTER_RESULTS = 2
"""Largest number of kills of one run after its results; otherwise most kills would hit this short time."""

AFTER_RESULTS = "after the results"


@dataclass
class Tally:
    """Counts of what has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    """Number of kills by what the run was doing."""
    attempts: int = 0
    runs: int = 0
    differences: list[str] = field(default_factory=list)


def main() -> None:
    settings = read_settings(sys.argv[1:], DEFAULTS)
    start = time.perf_counter()
    # Forked processes would delete a TemporaryDirectory at their exit.
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    try:
        numbers = {key: int(settings[key]) for key in ("kills", "seed", "workers", "steps")}
        tally = kill_until(folder, **numbers, deadline=start + 60 * float(settings["minutes"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = table(tally, settings, time.perf_counter() - start)
    print(report)
    if settings["out"]:
        out = Path(settings["out"])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report)
    sys.exit(1 if tally.differences else 0)


def kill_until(folder: Path, kills: int, seed: int, workers: int, steps: int, deadline: float) -> Tally:
    """Kill runs until the number of kills or the deadline is reached, let the last run finish, and compare each run.

    Args:
        folder: Folder for data, runs and logs.
        kills: Number of kills.
        seed: Seed of the moments of the kills.
        workers: Data loading workers of each run.
        steps: Training steps of each run.
        deadline: Value of `time.perf_counter()` after which no kill is made.
    """
    import_everything()
    tally, dice = Tally(), random.Random(seed)
    while sum(tally.kills.values()) < kills and time.perf_counter() < deadline:
        options = f"data.workers={workers}", f"seed={tally.runs}"
        alone_start = time.perf_counter()
        alone = arguments(folder / "alone", folder / "data", steps, *options)
        status = wait(start("htc.run", alone, folder / "alone.log"))
        if status != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{(folder / 'alone.log').read_text()}")
        duration = time.perf_counter() - alone_start
        length = metrics_length(folder / "alone")
        killed = arguments(folder / "killed", folder / "data", steps, *options)
        left = min(kills - sum(tally.kills.values()), KILLS_OF_A_RUN)
        after_results = 0
        while True:
            tally.attempts += 1
            known = temporary_files(folder / "killed")
            process = start("htc.run", killed, folder / "killed.log")
            place = None
            if left > 0 and after_results < KILLS_AFTER_RESULTS and time.perf_counter() < deadline:
                runs, aim = folder / "killed", dice.random()
                if aim < SHARE_IN_SAVES:
                    place = kill_in_a_save(process, runs, dice.uniform(0, LONGEST_DELAY_IN_SAVE), known)
                elif aim < SHARE_IN_SAVES + SHARE_BY_PROGRESS:
                    target = dice.uniform(metrics_length(runs), length)
                    place = kill_at_progress(process, runs, target, dice.uniform(0, LONGEST_STEP), known)
                else:
                    place = kill_after(process, runs, dice.uniform(0, duration), known)
            if place is not None:
                tally.kills[place] += 1
                left -= 1
                after_results += place == AFTER_RESULTS
            elif (status := wait(process)) == 0:
                break
            else:
                log = (folder / "killed.log").read_text()[-2000:]
                tally.differences.append(f"run {tally.runs}: the same command failed with status {status}:\n{log}")
                break
        tally.differences += [
            f"run {tally.runs}: {difference}" for difference in compare(folder / "alone", folder / "killed", tally.runs)
        ]
        tally.runs += 1
        done = sum(tally.kills.values())
        print(f"{done} kills, {tally.runs} runs, {len(tally.differences)} differences", file=sys.stderr, flush=True)
    return tally


def arguments(runs: Path, data: Path, steps: int, *options: str) -> list[str]:
    """Arguments of `python -m htc.run`: a run of seconds that saves, logs and evaluates often and tracks offline."""
    overrides = [
        "schedule.batch_size=2", "schedule.reference_batch=2", "schedule.ema=0.9", "schedule.warmup_iterations=4",
        f"schedule.eval_every={max(1, steps // 3)}", "save.keep=2", "threads=1", "device=cpu", "progress=false",
        "wandb.mode=offline", "wandb.images=1", *options,
    ]  # fmt: skip
    return tiny(runs, data, steps, save_every=2, images=(8, 2), overrides=overrides)


def temporary_files(runs: Path) -> set[tuple[str, int]]:
    """Return name and time of last change of each checkpoint that is being written, or that a kill left unfinished."""
    found = set()
    for path in runs.glob("*/checkpoints/*.tmp"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def kill_after(process: int, runs: Path, seconds: float, known: set[tuple[str, int]]) -> str | None:
    """Kill after `seconds`, and return what the run was doing; None if the process had ended."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if has_ended(process):
            return None
        time.sleep(0.001)
    return kill(process, runs, known)


def metrics_length(runs: Path) -> int:
    """Return the length of metrics.jsonl in bytes; 0 if the file is missing."""
    return sum(path.stat().st_size for path in runs.glob("*/metrics.jsonl"))


def kill_at_progress(process: int, runs: Path, length: float, delay: float, known: set[tuple[str, int]]) -> str | None:
    """Kill `delay` seconds after metrics.jsonl has reached a length, and return what the run was doing.

    Args:
        process: Id of the process.
        runs: Folder of runs.
        length: Length of metrics.jsonl in bytes.
        delay: Seconds between reaching it and the kill.
        known: Temporary files that an earlier kill has left.

    Returns:
        What the run was doing; None if the process ended before.
    """
    while metrics_length(runs) < length:
        if has_ended(process):
            return None
        time.sleep(0.001)
    return kill_after(process, runs, delay, known)


def kill_in_a_save(process: int, runs: Path, delay: float, known: set[tuple[str, int]]) -> str | None:
    """Kill `delay` seconds after the next save begins, and return what the run was doing; None if there is no save."""
    while not temporary_files(runs) - known:
        if has_ended(process):
            return None
        time.sleep(0.0005)
    time.sleep(delay)
    return kill(process, runs, known)


def kill(process: int, runs: Path, known: set[tuple[str, int]]) -> str | None:
    """Kill, and return what the run was doing; None if the process had ended."""
    os.kill(process, signal.SIGKILL)
    if wait(process) != -signal.SIGKILL:
        return None
    if temporary_files(runs) - known:
        return "in a save"
    if list(runs.glob("*/evaluations/*/results.json")):
        return AFTER_RESULTS
    lines = [line for file in runs.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    return "between saves, while training or evaluating" if lines else "before the first line of metrics"


def compare(alone: Path, killed: Path, seed: int) -> list[str]:
    """Return the differences between the undisturbed and the killed run of a seed, one sentence each."""
    first, second = (folder_of(runs, seed) for runs in (alone, killed))
    if second is None or first is None:
        return ["there is no finished run"]
    states = []
    for folder in (first, second):
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            return [f"{folder} has no checkpoint"]
        states.append(read_checkpoint(newest).to_content())
    differences = [
        f"{key} differs"
        for key in ("model", "ema", "optimizer", "step", "ema_updates", "overflows")
        if not same(*(state[key] for state in states))
    ]
    own, other = (states_of_processes(state) for state in states)
    differences += [f"{key} of the process differs" for key in own if not same(own[key], other[key])]
    readers: dict[str, Callable[[Path], Any]] = {
        "metrics.jsonl": lines_of, "results.json": results_of, "wandb's history": wandb_steps,
    }  # fmt: skip
    for what, read in readers.items():
        if (a := read(first)) != (b := read(second)):
            differences.append(f"{what} differs: {a} and {b}")
    return differences


def states_of_processes(state: dict[str, Any]) -> dict[str, Any]:
    """Return the states of the process without that of Python's `random`: training does not use it, but wandb does."""
    (own,) = state["processes"]
    return {"losses": own["losses"], **{key: value for key, value in own["random"].items() if key != "python"}}


def folder_of(runs: Path, seed: int) -> Path | None:
    """Return the folder of the one run of a seed; None unless it is done."""
    found = [path.parent for path in runs.glob("*/run.json") if f"seed{seed}-" in path.parent.name]
    done = [path for path in found if json.loads((path / "run.json").read_text())["status"] == "done"]
    return done[0] if len(found) == len(done) == 1 else None


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal to the last bit, including tensors in dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the entries that differ from run to run: time, speed and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second", "memory_mb")} for line in lines]


def results_of(folder: Path) -> dict[str, Any]:
    """Return the entries of results.json that do not depend on the time a run takes."""
    results = json.loads((folder / "evaluations" / "default" / "results.json").read_text())
    return {key: results[key] for key in ("bbox", "segm", "iterations", "images_evaluated", "data")}


def wandb_steps(folder: Path) -> list[tuple[int, int]]:
    """Return wandb's own step and ours of each row of history that `wandb sync` would send."""
    from htc.runs.wandb_files import offline_files
    from tests.helpers.wandb_history import read_history

    files = offline_files(folder)
    return [(row["_step"], row["step"]) for file in files for row in read_history(file)]


def table(tally: Tally, settings: dict[str, str], seconds: float) -> str:
    """Return the report as Markdown."""
    rows = [f"| {place} | {number} |" for place, number in sorted(tally.kills.items())]
    differences = [f"- {difference}" for difference in tally.differences] or ["None."]
    lines = [
        "# Killed runs", "",
        f"`python -m tests.robustness.kills {' '.join(f'{key}={settings[key]}' for key in DEFAULTS if key != 'out')}`,"
        f" {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}: {seconds / 60:.0f} minutes.", "",
        f"{sum(tally.kills.values())} kills (SIGKILL) in {tally.attempts} attempts at {tally.runs} runs. The same "
        "command then finished each run, and it was compared with an undisturbed one: weights, their moving average, "
        "optimiser and random states to the last bit; every line of metrics.jsonl; the results; wandb's history.", "",
        "| moment of the kill | kills |", "|---|---|", *rows, "", "## Differences", "", *differences, "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
