"""Measure how long tables of many runs take, and their memory: without an index, and with that of earlier tables.

    python -m benchmarks.tables [runs=10000] [rounds=3] [out=FILE]

The runs are written to a temporary folder: configurations with ten seeds each, and results with 80 categories. The
wall-clock time is measured in turn with that of `python -m htc.run --help`: the ratio of the two depends less on the
machine than the seconds.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from analysis.run_index import INDEX_FILE
from htc.cli import read_settings, run_command
from tests.helpers.run_folders import run_writer

DEFAULTS = {"runs": "10000", "rounds": "3", "out": ""}
SEEDS = 10
CATEGORIES = 80


def main() -> None:
    settings = read_settings(sys.argv[1:], DEFAULTS)
    number, rounds = int(settings["runs"]), int(settings["rounds"])
    seconds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tables") as temporary:
        pool = Path(temporary, "runs")
        write_runs(pool, number)
        tables = ["-m", "analysis.make_tables", f"runs={pool}", f"out={temporary}/tables", "intervals=false"]
        for _ in range(rounds):
            (pool / INDEX_FILE).unlink(missing_ok=True)
            for name, arguments in (
                ("--help", ["-m", "htc.run", "--help"]), ("tables, first time", tables), ("tables, again", tables),
            ):  # fmt: skip
                taken, peak = timed(arguments)
                seconds[name].append(taken)
                memory[name] = max(peak, memory.get(name, 0))
    report = table(seconds, memory, number, rounds)
    print(report)
    if settings["out"]:
        Path(settings["out"]).write_text(report)


def write_runs(pool: Path, number: int) -> None:
    """Write finished runs, as copies of one with another seed and rate, and a sweep that selects all."""
    pool.mkdir()
    first = run_writer(pool)(sweep=None)
    config, record, results = (
        (first / name).read_text() for name in ("config.yaml", "run.json", "evaluations/default/results.json")
    )
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.123456789012)
    by_category = {f"category {index}": metrics for index in range(CATEGORIES)}
    results = json.dumps({**json.loads(results), "per_category": {"bbox": by_category, "segm": by_category}})
    shutil.rmtree(first)
    rate = next(line for line in config.splitlines() if line.strip().startswith("learning_rate:"))
    rows = []
    for index in range(number):
        folder = pool / f"htc-resnet18-shapes-seed{index % SEEDS}-{index:08x}"
        (folder / "evaluations" / "default").mkdir(parents=True)
        own = config.replace("\nseed: 0\n", f"\nseed: {index % SEEDS}\n")
        own = own.replace(rate, rate.split(":")[0] + f": {1e-6 * (1 + index // SEEDS):.6f}")
        (folder / "config.yaml").write_text(own)
        (folder / "run.json").write_text(record)
        (folder / "evaluations" / "default" / "results.json").write_text(results)
        rows.append({"run": folder.name, "label": f"row {index // SEEDS}"})
    sweep = pool / ".sweeps" / "many"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"rows": rows}))
    time.sleep(3)  # files that have just changed are not indexed


def timed(arguments: list[str]) -> tuple[float, float]:
    """Return the wall-clock seconds and the peak memory in MiB of a Python command."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def table(seconds: dict[str, list[float]], memory: dict[str, float], number: int, rounds: int) -> str:
    """Return the measurements as Markdown."""
    start = median(seconds["--help"])
    lines = [
        f"# Tables of {number} runs", "",
        f"`python -m benchmarks.tables runs={number} rounds={rounds}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} "
        f"CPU cores ({platform.machine()}), Python {platform.python_version()}: wall-clock seconds (lowest, median, "
        "highest), the median as a multiple of `python -m htc.run --help`, timed in turn, and peak memory.", "",
        "| command | lowest | median | highest | x --help | MiB |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, of_name in seconds.items():
        lines.append(
            f"| {name} | {min(of_name):.1f} | {median(of_name):.1f} | {max(of_name):.1f} | "
            f"{median(of_name) / start:.1f} | {memory[name]:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
