"""Data loaders: samples stay a list, since images of a batch differ in size."""

from __future__ import annotations

import cv2
import torch
from torch.utils.data import DataLoader

from htc.config import DataConfig
from htc.data.coco import CocoDataset
from htc.data.samplers import TrainBatches
from htc.structures import Sample


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
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=config.workers,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
        persistent_workers=config.workers > 0,
        pin_memory=torch.cuda.is_available(),
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
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
    )


def _as_list(samples: list[Sample]) -> list[Sample]:
    return samples


def _one_thread(worker: int) -> None:
    """Workers are the parallelism; OpenCV's own threads in each would fight over the cores, and do not survive fork."""
    cv2.setNumThreads(0)
