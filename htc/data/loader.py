"""Data loaders: samples stay a list, since images of a batch differ in size."""

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
    """A loader that says in the log which images could not be read and how often others stood in for them."""

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        known: set[str] = set()
        count = 0
        for batch in super().__iter__():
            for fault in itertools.chain.from_iterable(sample.replaces for sample in batch):
                count += 1
                # Each file once; then at 1, 2, 4, 8, ... only, for an image comes again every epoch.
                if fault not in known or count & (count - 1) == 0:
                    known.add(fault)
                    logger.warning(
                        "data.on_bad_image=skip: %s Another image stands in for it (%d times so far, %d files).",
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
    """Endless training batches from pass number `start` on: this process's share of `batch_size` images a pass."""
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
        # Its own: a draw from the global one, at whatever moment, would tell a resumed run from an uninterrupted one.
        generator=torch.Generator().manual_seed(seed),
    )


def build_val_loader(
    dataset: CocoDataset, config: DataConfig, *, batch_size: int = 1, indices: list[int] | None = None
) -> DataLoader[list[Sample]]:
    """Each image once, in order; `indices` picks positions in the data set (a process's share, or a limit)."""
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
    """The samples as they are, in a worker with their tensors in shared memory.

    They have to go there in any case. Left to the queue, it is done in a thread whose errors nobody hears of: where
    /dev/shm is full, training would wait for ever.
    """
    if get_worker_info() is not None:
        for sample in samples:
            for value in (*vars(sample).values(), *(vars(sample.targets).values() if sample.targets else ())):
                if isinstance(value, torch.Tensor):
                    value.share_memory_()
    return samples


def _prepare_worker(worker: int) -> None:
    # Workers are the parallelism; OpenCV's own threads in each would fight over the cores, and do not survive fork.
    cv2.setNumThreads(0)
    # A terminal and Slurm tell every process to stop; the run saves its state first, and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process at a SIGTERM from its parent, and at no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
