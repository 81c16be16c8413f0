"""Data loaders. A batch is a list of samples, because its images differ in size."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterator

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info

from htc.config.schema import DataConfig
from htc.data.dataset import CocoDataset
from htc.data.samplers import TrainBatches
from htc.structures import Sample

logger = logging.getLogger(__name__)


class TrainLoader(DataLoader[list[Sample]]):
    """A loader that logs which images could not be read and how often other images replaced them."""

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        known: set[str] = set()
        count = 0
        for batch in super().__iter__():
            for fault in itertools.chain.from_iterable(sample.replaces for sample in batch):
                count += 1
                # A broken file returns in every epoch, so it is logged once, and then only at counts 1, 2, 4, 8, ...
                if fault not in known or count & (count - 1) == 0:
                    known.add(fault)
                    logger.warning(
                        "data.on_bad_image=skip: %s Another image replaces it (%d times so far, %d files).",
                        fault, count, len(known),
                    )  # fmt: skip
            yield batch


def build_train_loader(
    dataset: CocoDataset,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> DataLoader[list[Sample]]:
    """Return a loader of endless training batches.

    Args:
        dataset: The training split.
        config: Number of workers, and whether batches are grouped by aspect ratio.
        batch_size: Images per micro-batch over all processes.
        seed: Seed for the order of the images and their augmentation.
        rank: Index of this process; it gets its share of each micro-batch.
        world_size: Number of processes.
        start: Number of the first micro-batch; a resumed run passes how many it has done.
    """
    batches = TrainBatches(
        dataset.aspect_ratios,
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        start=start,
        group_by_aspect=config.group_by_aspect,
    )
    return TrainLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=config.workers,
        collate_fn=_as_list,
        worker_init_fn=_prepare_worker,
        persistent_workers=config.workers > 0,
        pin_memory=torch.cuda.is_available(),
        # The loader has its own generator: draws from the global one would make a resumed run differ from an
        # uninterrupted one.
        generator=torch.Generator().manual_seed(seed),
    )


def build_val_loader(
    dataset: CocoDataset, config: DataConfig, *, batch_size: int = 1, indices: list[int] | None = None
) -> DataLoader[list[Sample]]:
    """Return a loader that yields each image once, in order.

    Args:
        dataset: The validation split.
        config: Number of workers.
        batch_size: Images per batch.
        indices: Positions in the data set that are loaded, such as the share of one process; None loads all.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=range(len(dataset)) if indices is None else indices,
        num_workers=config.workers,
        collate_fn=_as_list,
        worker_init_fn=_prepare_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


def _as_list(samples: list[Sample]) -> list[Sample]:
    """Return the samples unchanged; in a worker, move their tensors into shared memory.

    The queue would do the same in a thread, but errors in that thread are lost: with a full /dev/shm, training would
    wait forever.
    """
    if get_worker_info() is not None:
        for sample in samples:
            for value in (*vars(sample).values(), *(vars(sample.targets).values() if sample.targets else ())):
                if isinstance(value, torch.Tensor):
                    value.share_memory_()
    return samples


def _prepare_worker(worker: int) -> None:
    # The workers already use all cores; threads of OpenCV in each would slow them down, and do not survive a fork.
    cv2.setNumThreads(0)
    # A terminal and Slurm signal every process; the run finishes its step, saves, and then ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process at a SIGTERM from its parent, and ignore a SIGTERM from any other process."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
