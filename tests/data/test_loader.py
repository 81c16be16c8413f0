"""Loading samples in worker processes."""

from __future__ import annotations

import dataclasses
from itertools import islice

import pytest
import torch

from htc.config import DataConfig
from htc.data.coco import build_dataset
from htc.data.loader import build_train_loader, build_val_loader
from htc.structures import Sample


def same(a: Sample, b: Sample) -> bool:
    assert a.targets is not None and b.targets is not None
    assert a.targets.semantic is not None and b.targets.semantic is not None
    return (
        a.image_id == b.image_id
        and torch.equal(a.image, b.image)
        and torch.equal(a.targets.boxes, b.targets.boxes)
        and torch.equal(a.targets.masks, b.targets.masks)
        and torch.equal(a.targets.semantic, b.targets.semantic)
    )


def test_batches_do_not_depend_on_the_number_of_workers_and_resume_where_they_stopped(shapes: DataConfig) -> None:
    dataset = build_dataset(shapes, train=True, semantic=True)

    def batches(workers: int, start: int, count: int) -> list[list[Sample]]:
        config = dataclasses.replace(shapes, workers=workers)
        loader = build_train_loader(dataset, config, batch_size=4, seed=1, rank=0, world_size=1, start=start)
        return list(islice(loader, count))

    whole = batches(0, 0, 18)
    for resumed in (batches(2, 13, 5), batches(0, 13, 5)):
        for batch, expected in zip(resumed, whole[13:], strict=True):
            assert len(batch) == 4 and all(same(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_yields_each_image_once_in_order(shapes: DataConfig, workers: int) -> None:
    config = dataclasses.replace(shapes, workers=workers)
    dataset = build_dataset(config, train=False, semantic=True)
    samples = [sample for batch in build_val_loader(dataset, config, batch_size=4) for sample in batch]
    assert [sample.image_id for sample in samples] == dataset.image_ids
    chosen = [sample for batch in build_val_loader(dataset, config, indices=[4, 1]) for sample in batch]
    assert [sample.image_id for sample in chosen] == [dataset.image_ids[4], dataset.image_ids[1]]
