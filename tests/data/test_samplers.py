"""The images of each training micro-batch."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htc.data.dataset import SeededIndex
from htc.data.samplers import TrainBatches
from htc.errors import UserError

RATIOS = np.random.default_rng(0).uniform(0.5, 1.6, 53)


def micro_batches(count: int, *, batch_size: int = 8, **options: Any) -> list[list[SeededIndex]]:
    return list(islice(TrainBatches(RATIOS, batch_size, seed=options.pop("seed", 3), **options), count))


@settings(max_examples=60, deadline=None)
@given(images=st.integers(1, 40), batch_size=st.integers(1, 12), seed=st.integers(0, 99), grouped=st.booleans())
def test_every_epoch_shows_every_image_at_least_once(images: int, batch_size: int, seed: int, grouped: bool) -> None:
    ratios = np.random.default_rng(seed).uniform(0.5, 1.5, images)
    batches = TrainBatches(ratios, batch_size, seed=seed, group_by_aspect=grouped)
    lists = list(islice(batches, 2 * batches.micro_batches_per_epoch))
    for epoch in (lists[: batches.micro_batches_per_epoch], lists[batches.micro_batches_per_epoch :]):
        assert all(len(batch) == batch_size for batch in epoch)
        seen = [draw.index for batch in epoch for draw in batch]
        assert set(seen) == set(range(images))
        assert len(seen) - images < batch_size, "only the images that fill the last batch are repeated"
        if images >= batch_size:
            assert all(len({draw.index for draw in batch}) == batch_size for batch in epoch)


def test_a_sampler_that_starts_at_micro_batch_k_continues_like_an_uninterrupted_one() -> None:
    complete = micro_batches(30)
    for start in (1, 6, 7, 8, 20):
        assert micro_batches(30 - start, start=start) == complete[start:]


def test_epochs_differ_and_seeds_differ() -> None:
    count = TrainBatches(RATIOS, 8, seed=3).micro_batches_per_epoch
    complete = micro_batches(2 * count)
    assert complete[:count] != complete[count:]
    assert micro_batches(count, seed=4) != complete[:count]
    assert len({draw.seed for batch in complete for draw in batch}) == 2 * count * 8


def test_ranks_share_the_global_batch_without_overlap() -> None:
    complete = micro_batches(15)
    shares = [micro_batches(15, rank=rank, world_size=4) for rank in range(4)]
    for k, batch in enumerate(complete):
        assert [draw for share in shares for draw in share[k]] == batch


def test_only_images_that_remain_from_both_groups_are_mixed_in_a_batch() -> None:
    ratios = np.repeat([1.5, 0.7], [45, 38])
    batches = TrainBatches(ratios, 8, seed=0)
    epoch = list(islice(batches, batches.micro_batches_per_epoch))
    mixed = [len({bool(ratios[draw.index] >= 1) for draw in batch}) == 2 for batch in epoch]
    # 45 = 5 x 8 + 5 and 38 = 4 x 8 + 6, so 11 images remain, which make two mixed batches.
    assert sum(mixed) <= 2
    ungrouped = TrainBatches(ratios, 8, seed=0, group_by_aspect=False)
    mixed = [len({bool(ratios[draw.index] >= 1) for draw in batch}) == 2 for batch in islice(ungrouped, 11)]
    assert sum(mixed) > 5


def test_a_batch_that_processes_cannot_share_equally_is_refused() -> None:
    with pytest.raises(UserError, match="8 images cannot be shared equally by 3 processes"):
        TrainBatches(RATIOS, 8, seed=0, world_size=3)
