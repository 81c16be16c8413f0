"""How long a sweep of many rows takes to plan, to submit and to show, on a Slurm cluster that this starts.

    python -m benchmarks.sweeps [rows=1000] [rounds=3] [out=FILE]

The cluster is that of the tests (Debian's slurm-wlm, slurmctld, slurmd and munge; jobs are held, so that none runs).
Each command is timed from outside, in turn with `python -m htc.run --help`, which does nothing but start: the ratio to
it depends less on the machine than the seconds do.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from htc.cli import read_settings, run_command
from htc.errors import UserError
from tests.cluster.slurm_cluster import SlurmCluster, missing_programs, running_cluster
from tests.helpers.command import command
from tests.helpers.tiny_run import SLURM, tiny_launched

DEFAULTS = {"rows": "1000", "rounds": "3", "out": ""}
SWEEP_ROWS = 4
"""Of sweeps/components.yaml; seeds make the rest."""


def main() -> None:
    settings = read_settings(sys.argv[1:], DEFAULTS)
    if missing := missing_programs():
        raise UserError(f"no Slurm here: {', '.join(missing)} are missing; install Debian's slurm-wlm and munge.")
    seeds = max(1, int(settings["rows"]) // SWEEP_ROWS)
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="sweeps") as folder, running_cluster(Path(folder)) as cluster:
        for _ in range(int(settings["rounds"])):
            measure(cluster, Path(folder), seeds, seconds)
    report = table(seconds, seeds * SWEEP_ROWS, int(settings["rounds"]))
    print(report)
    if settings["out"]:
        Path(settings["out"]).write_text(report)


def measure(cluster: SlurmCluster, folder: Path, seeds: int, seconds: dict[str, list[float]]) -> None:
    """One round in an empty folder of runs."""
    runs = folder / "runs"
    sweep = ["-m", "+sweep=components", *tiny_launched(runs, folder / "data"), *SLURM, "launcher.sbatch=[--hold]"]
    sweep.append(f"seed=range(0,{seeds})")
    commands = {
        "plan, nothing there (--dry-run)": ["htc.run", *sweep, "--dry-run"],
        "submit": ["htc.run", *sweep],
        "plan, all there (--dry-run)": ["htc.run", *sweep, "--dry-run"],
        "submit again: nothing to start": ["htc.run", *sweep],
        "status": ["htc.status", "components", f"runs={runs}"],
        "status --json": ["htc.status", "components", f"runs={runs}", "--json"],
    }
    for name, arguments in commands.items():
        seconds["--help"].append(timed(cluster, ["htc.run", "--help"]))
        seconds[name].append(timed(cluster, arguments))
    cluster.cancel_all()
    shutil.rmtree(runs)


def timed(cluster: SlurmCluster, arguments: list[str]) -> float:
    start = time.perf_counter()
    command(*arguments, environment=cluster.environment).check_returncode()
    return time.perf_counter() - start


def table(seconds: dict[str, list[float]], rows: int, rounds: int) -> str:
    start = median(seconds["--help"])
    lines = [
        f"# A sweep of {rows} rows", "",
        f"`python -m benchmarks.sweeps rows={rows} rounds={rounds}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} "
        f"CPU cores ({platform.machine()}), Python {platform.python_version()}: seconds from outside (lowest, median, "
        "highest), and the median as a multiple of `python -m htc.run --help`, timed in turn.", "",
        "| command | lowest | median | highest | x --help |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, values in seconds.items():
        middle = median(values)
        lines.append(f"| {name} | {min(values):.1f} | {middle:.1f} | {max(values):.1f} | {middle / start:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run_command(main)
