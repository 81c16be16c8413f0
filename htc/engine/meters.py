"""Figures about training: means of the losses, speed and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class LossMeter:
    """Means of the losses by name since the last `reset`."""

    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0

    def add(self, losses: dict[str, float]) -> None:
        """Add the losses of one step."""
        for name, value in losses.items():
            self.totals[name] += value
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Return the mean per step of each loss."""
        return {name: total / self.steps for name, total in self.totals.items()}

    def reset(self) -> None:
        self.totals.clear()
        self.steps = 0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, so that the next line of metrics.jsonl is the same after a resume."""
        return {"totals": dict(self.totals), "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.reset()
        self.totals.update(state["totals"])
        self.steps = state["steps"]


def mean_of(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each loss over several processes."""
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


class SpeedMeter:
    """Images per second since the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = time.perf_counter()
        self.images = 0

    def add(self, images: int) -> None:
        self.images += images

    def images_per_second(self) -> float:
        return self.images / max(time.perf_counter() - self.start, 1e-9)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of the tensors on a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def clock(seconds: float) -> str:
    """Return seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
