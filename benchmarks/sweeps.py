"""Measure how long it takes to plan, submit and show a sweep with many rows, on a Slurm cluster that this starts.

    python -m benchmarks.sweeps [rows=1000] [rounds=3] [out=FILE]

The cluster is that of the tests (Debian's slurm-wlm, slurmctld, slurmd and munge). Jobs are held, so that none runs.
The wall-clock time of each command is measured in turn with that of `python -m htc.run --help`, which only starts: the
ratio of the two depends less on the machine than the seconds.
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
"""Number of rows in sweeps/components.yaml; seeds multiply them."""


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
    """Time each command once, in a folder without runs.

    Args:
        cluster: Cluster to submit to.
        folder: Temporary folder for data and runs.
        seeds: Number of seeds per row of the sweep.
        seconds: Measured seconds by command, to which this appends.
    """
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
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    command(*arguments, environment=cluster.environment).check_returncode()
    return time.perf_counter() - start


def table(seconds: dict[str, list[float]], rows: int, rounds: int) -> str:
    """Return the report as a Markdown table."""
    start = median(seconds["--help"])
    lines = [
        f"# A sweep of {rows} rows", "",
        f"`python -m benchmarks.sweeps rows={rows} rounds={rounds}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} "
        f"CPU cores ({platform.machine()}), Python {platform.python_version()}: wall-clock seconds (lowest, median, "
        "highest), and the median as a multiple of `python -m htc.run --help`, timed in turn.", "",
        "| command | lowest | median | highest | x --help |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, values in seconds.items():
        middle = median(values)
        lines.append(f"| {name} | {min(values):.1f} | {middle:.1f} | {max(values):.1f} | {middle / start:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run_command(main)
