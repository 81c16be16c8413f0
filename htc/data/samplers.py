"""Which images a training pass sees: a function of the seed and the pass number, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from htc.data.dataset import SeededIndex
from htc.errors import UserError


class TrainBatches(Sampler[list[SeededIndex]]):
    """Endless batches from pass number `start` on; each epoch is a fresh permutation with every image at least once.

    `batch_size` counts images of a pass over all processes; process `rank` gets its contiguous share. Images of a batch
    are all wide or all tall where `group_by_aspect` (less padding); what is left of the two groups is put together, and
    the last batch is filled up from the epoch's start. Raises UserError where the batch cannot be shared equally.
    """

    def __init__(
        self,
        aspect_ratios: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        group_by_aspect: bool = True,
    ) -> None:
        if batch_size < world_size or batch_size % world_size != 0:
            raise UserError(
                f"A pass of {batch_size} images cannot be shared equally by {world_size} processes: "
                "make schedule.batch_size / schedule.accumulate a multiple of the number of processes."
            )
        self.wide = np.asarray(aspect_ratios) >= 1
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.group_by_aspect = group_by_aspect
        share = batch_size // world_size
        self.share = slice(rank * share, (rank + 1) * share)

    @property
    def micro_batches_per_epoch(self) -> int:
        return -(-len(self.wide) // self.batch_size)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        epoch, skipped = divmod(self.start, self.micro_batches_per_epoch)
        while True:
            indices, seeds = self._epoch(epoch)
            for k in range(skipped, self.micro_batches_per_epoch):
                pairs = zip(indices[k, self.share].tolist(), seeds[k, self.share].tolist(), strict=True)
                yield [SeededIndex(index, seed) for index, seed in pairs]
            epoch, skipped = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Image indices and seeds of all passes of an epoch, both [micro_batches_per_epoch, batch_size] int64."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.wide))
        wide = self.wide[order]
        groups = [order[wide], order[~wide]] if self.group_by_aspect else [order]
        whole = [len(group) // self.batch_size * self.batch_size for group in groups]
        full = [group[:n] for group, n in zip(groups, whole, strict=True)]
        left = [group[n:] for group, n in zip(groups, whole, strict=True)]
        arranged = np.concatenate(full + left)
        missing = self.micro_batches_per_epoch * self.batch_size - len(order)
        # An image twice in one batch only where the data set is smaller than the batch.
        others = order[~np.isin(order, arranged[missing - self.batch_size :])]
        filler = np.resize(others if len(others) else order, missing)
        batches = np.concatenate([arranged, filler]).reshape(-1, self.batch_size)
        random.shuffle(batches, axis=0)
        seeds = random.integers(0, 2**63 - 1, batches.shape)
        return batches, seeds
