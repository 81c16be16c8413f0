"""Worker processes load the same samples as the main process, and their failures are reported."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Callable
from itertools import islice

import pytest
import torch

from htc.config.schema import DataConfig
from htc.data.dataset import CocoDataset, SeededIndex, build_dataset
from htc.data.loader import build_train_loader, build_val_loader
from htc.errors import memory_exhausted
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

    uninterrupted = batches(0, 0, 18)
    for resumed in (batches(2, 13, 5), batches(0, 13, 5)):
        for batch, expected in zip(resumed, uninterrupted[13:], strict=True):
            assert len(batch) == 4 and all(same(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_yields_each_image_once_in_order(shapes: DataConfig, workers: int) -> None:
    config = dataclasses.replace(shapes, workers=workers)
    dataset = build_dataset(config, train=False, semantic=True)
    samples = [sample for batch in build_val_loader(dataset, config, batch_size=4) for sample in batch]
    assert [sample.image_id for sample in samples] == dataset.image_ids
    chosen = [sample for batch in build_val_loader(dataset, config, indices=[4, 1]) for sample in batch]
    assert [sample.image_id for sample in chosen] == [dataset.image_ids[4], dataset.image_ids[1]]


def be_killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def meet_bus_error(process: int) -> None:
    os.kill(process, signal.SIGBUS)


def exit_early(process: int) -> None:
    os._exit(3)


def exhaust_shared_memory(process: int) -> None:
    # A limit of one byte per file has the same effect as a full /dev/shm.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))


@pytest.mark.timeout(120)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared memory is a folder on Linux only")
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (be_killed, "worker (pid"), (meet_bus_error, "worker (pid"), (exit_early, "exited unexpectedly"),
        (exhaust_shared_memory, "unable to resize file"),
    ],
)  # fmt: skip
def test_worker_without_memory_is_reported_in_one_sentence(
    shapes: DataConfig, train: bool, fail: Callable[[int], None], reason: str
) -> None:
    class FailingDataset(CocoDataset):
        def __getitem__(self, key: int | SeededIndex) -> Sample:
            fail(os.getpid())
            return super().__getitem__(key)

    config = dataclasses.replace(shapes, workers=1)
    dataset = FailingDataset(config, config.train if train else config.val, train=train, semantic=train)
    loader = build_train_loader(dataset, config, batch_size=2, seed=0) if train else build_val_loader(dataset, config)
    with pytest.raises(RuntimeError) as caught:
        next(iter(loader))
    error = memory_exhausted(caught.value)
    assert error is not None and error.status == 1
    assert reason in error.sentence and "\n" not in error.sentence
    assert error.sentence.endswith("lower data.workers or enlarge /dev/shm.")


def test_worker_returns_an_image_without_objects(shapes: DataConfig) -> None:
    config = dataclasses.replace(shapes, workers=1)

    class Empty(CocoDataset):
        def __getitem__(self, key: int | SeededIndex) -> Sample:
            sample = super().__getitem__(key)
            assert sample.targets is not None
            sample.targets.labels = torch.zeros(0, dtype=torch.int64)
            return sample

    dataset = Empty(config, config.train, train=True, semantic=False)
    (sample,) = next(iter(build_train_loader(dataset, config, batch_size=1, seed=0)))
    assert sample.targets is not None and len(sample.targets.labels) == 0 and sample.image.is_shared()
