"""Observe runs by their files, as a user does: records, metrics and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from htc.runs.pool import read_rows

TIMES = ("time", "images_per_second", "memory_mb", "seconds")
"""Keys of metrics.jsonl whose values depend on the clock or the machine."""


def run_folder(runs: Path, sweep: str, label: str, seed: int = 0) -> Path:
    """Return the folder of the run of a row."""
    (found,) = [row.run for row in read_rows(runs, sweep) if row.label == label and f"seed{seed}-" in row.run]
    return runs / found


def record(folder: Path) -> dict[str, Any]:
    """Return the content of run.json; empty if it cannot be read."""
    try:
        value: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return value


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Wait until a condition holds, and return its value. Fail after `seconds`, which a busy machine must not reach."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for: {what}"
        time.sleep(0.2)
    return value


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of a run's checkpoints in ascending order."""
    return sorted(int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.pt"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the keys in TIMES."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_twins(disturbed: Path, undisturbed: Path) -> None:
    """Assert that two runs have the same metrics in each line, bit-identical final weights and the same predictions."""
    assert [(line["kind"], line["step"]) for line in metrics(disturbed)] == [
        (line["kind"], line["step"]) for line in metrics(undisturbed)
    ]
    assert metrics(disturbed) == metrics(undisturbed)
    last = checkpoint_steps(undisturbed)[-1]
    states = [
        torch.load(folder / "checkpoints" / f"step_{last:08d}.pt", weights_only=False)["model"]
        for folder in (disturbed, undisturbed)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in ("bbox.json", "segm.json"):
        assert (disturbed / "evaluations" / "default" / name).read_bytes() == (
            undisturbed / "evaluations" / "default" / name
        ).read_bytes()
