"""The random states of a process: what a checkpoint carries of them, and what must not be disturbed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python, NumPy, PyTorch and, on a GPU, its generator: tensors and plain values alone.

    Workers of a data loader hold no random state: each index carries the seed of its sample
    (`htc.data.dataset.SeededIndex`).
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert kind == "MT19937"
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Take up what `random_state` returned; a GPU's generator is left alone where the state is of a CPU run."""
    random.setstate(state["python"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Leave the random states as they were before the block: an evaluation's loader draws from PyTorch's."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)
