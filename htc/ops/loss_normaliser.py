"""Normalisers of losses (sample counts) when several processes share a batch.

Each process counts only its own samples. If each process divided its losses by its own count, a process with few
samples would get too much weight. If all divide by the mean count over the processes, the mean of their losses equals
the loss of the complete batch. The models call `loss_normaliser` and need no other knowledge of the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

MeanOverProcesses = Callable[[float], Tensor]
"""Takes this process's value and returns the mean over all processes, a scalar tensor."""

_mean_over_processes: ContextVar[MeanOverProcesses | None] = ContextVar("mean_over_processes", default=None)


def loss_normaliser(own_count: int) -> float | Tensor:
    """Return the number to divide a loss by: `own_count`, or its mean over the processes that share the batch.

    The result is above zero. The mean is a collective operation: inside `shared_normalisers`, every process must call
    this function equally often, also a process without samples.
    """
    mean_over_processes = _mean_over_processes.get()
    return max(own_count, 1) if mean_over_processes is None else mean_over_processes(own_count).clamp(min=1e-6)


@contextmanager
def shared_normalisers(mean_over_processes: MeanOverProcesses | None) -> Iterator[None]:
    """Make `loss_normaliser` return means over the processes inside the block; None: each process's own count."""
    token = _mean_over_processes.set(mean_over_processes)
    try:
        yield
    finally:
        _mean_over_processes.reset(token)
