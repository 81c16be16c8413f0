"""The numbers that losses are divided by, when several processes share a batch.

Each process knows its own samples alone. Were each loss divided by these, processes with few of them would weigh more
than in one batch of all; divided by the mean over the processes, the mean of all their losses is the loss of the whole
batch. The models ask here and know nothing of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

MeanOf = Callable[[float], Tensor]

_mean_of: ContextVar[MeanOf | None] = ContextVar("mean_of", default=None)


def loss_normaliser(own: int) -> float | Tensor:
    """The number to divide a loss by: `own`, or where processes share the batch its mean over these.

    All processes must come here the same number of times, also those without a sample. The mean is above zero.
    """
    mean_of = _mean_of.get()
    return max(own, 1) if mean_of is None else mean_of(own).clamp(min=1e-6)


@contextmanager
def shared_normalisers(mean_of: MeanOf | None) -> Iterator[None]:
    """In the block, counts are means over the processes, as `mean_of` makes them; None: each process's own."""
    token = _mean_of.set(mean_of)
    try:
        yield
    finally:
        _mean_of.reset(token)
