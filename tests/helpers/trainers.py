"""A trainer of the tiny network on tiny data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from htc.checkpoint.files import newest_checkpoint
from htc.config.schema import Config, DataConfig
from htc.data.dataset import build_dataset
from htc.distributed.processes import Processes
from htc.engine.trainer import Trainer
from htc.runs.folder import RunFolder
from tests.helpers.tiny import tiny_config, tiny_detector

ALONE = Processes(0, 1, torch.device("cpu"))
"""The only process of a run on the CPU."""


def training_config(data: DataConfig) -> Config:
    """Return a configuration of six steps of two images, with momentum, warm-up, a drop of the learning rate and flips.

    A resume must restore the state of all of them.
    """
    config = tiny_config(interleaved=True, mask_flow=True, semantic=True)
    config.data = data
    config.schedule.milestones = [0.5]
    config.schedule.warmup_iterations = 4
    config.log_every = 2
    return config


def make_trainer(
    config: Config,
    folder: Path,
    processes: Processes = ALONE,
    evaluate: Callable[[], object] = lambda: None,
) -> Trainer:
    """Return a trainer of the tiny network, which continues from the newest checkpoint in the folder if there is one.

    Args:
        config: the run's configuration.
        folder: the run's folder.
        processes: the processes of the run.
        evaluate: called where the schedule asks for an evaluation.
    """
    dataset = build_dataset(config.data, train=True, semantic=config.model.semantic)
    model = tiny_detector(config, config.seed, len(dataset.category_ids)).to(processes.device)
    folder.mkdir(parents=True, exist_ok=True)
    newest = newest_checkpoint(folder / "checkpoints")
    return Trainer(config, model, dataset, RunFolder(folder), processes, evaluate, newest)
