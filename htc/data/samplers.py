"""The images of each training micro-batch, a function of the seed and the number of the micro-batch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from htc.data.dataset import SeededIndex
from htc.errors import UserError


class TrainBatches(Sampler[list[SeededIndex]]):
    """Endless micro-batches; each epoch is a new permutation that contains every image at least once."""

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
        """Set up the batches of one process.

        Args:
            aspect_ratios: [n] width / height of each image.
            batch_size: Images per micro-batch over all processes.
            seed: Seed for the permutations and for the seeds of the samples.
            rank: Index of this process, which gets a contiguous share of each micro-batch.
            world_size: Number of processes.
            start: Number of the first micro-batch.
            group_by_aspect: Fill a micro-batch with either wide or tall images, which need less padding. Only the
                images that remain of both groups are mixed, and the last ones are filled up from the epoch's start.

        Raises:
            UserError: `batch_size` is not a multiple of `world_size`.
        """
        if batch_size < world_size or batch_size % world_size != 0:
            raise UserError(
                f"A micro-batch of {batch_size} images cannot be shared equally by {world_size} processes: "
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
        """Return image indices and seeds of an epoch, both [micro_batches_per_epoch, batch_size] int64."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.wide))
        wide = self.wide[order]
        groups = [order[wide], order[~wide]] if self.group_by_aspect else [order]
        full = [len(group) // self.batch_size * self.batch_size for group in groups]
        in_full_batches = [group[:count] for group, count in zip(groups, full, strict=True)]
        remaining = [group[count:] for group, count in zip(groups, full, strict=True)]
        arranged = np.concatenate(in_full_batches + remaining)
        missing = self.micro_batches_per_epoch * self.batch_size - len(order)
        # The last batch is not filled with its own images, so an image repeats within a batch only if the data set is
        # smaller than a batch.
        others = order[~np.isin(order, arranged[missing - self.batch_size :])]
        filler = np.resize(others if len(others) else order, missing)
        batches = np.concatenate([arranged, filler]).reshape(-1, self.batch_size)
        random.shuffle(batches, axis=0)
        seeds = random.integers(0, 2**63 - 1, batches.shape)
        return batches, seeds
