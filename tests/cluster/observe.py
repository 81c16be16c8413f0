"""Looking at runs from outside, as a user does: records, metrics, checkpoints, the status command."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# What the clock and the machine decide.
TIMES = ("time", "images_per_second", "memory_mb", "seconds")


def run_folder(sweep: Path, start: str) -> Path:
    """The folder of the run whose name starts so."""
    (found,) = [path for path in sweep.glob(f"{start}*") if path.is_dir()]
    return found


def record(folder: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return value


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Wait for what is to come. The limit ends a wait in vain: a busy machine must not come near it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for: {what}"
        time.sleep(0.2)
    return value


def checkpoint_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.pt"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_twins(disturbed: Path, undisturbed: Path) -> None:
    """Same metrics line by line, same final weights bit for bit, same predictions."""
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
        assert (disturbed / "predictions" / name).read_bytes() == (undisturbed / "predictions" / name).read_bytes()
