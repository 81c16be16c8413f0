"""A network that is small enough to be trained in a test, with random images and objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from htc.config.checks import check
from htc.config.finalize import derive
from htc.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    ModelConfig,
    Norm,
    RPNConfig,
    ScheduleConfig,
    WandbConfig,
    WandbMode,
)
from htc.models.detector import Detector, build_detector
from htc.structures import Targets

NUM_CLASSES = 3
SEMANTIC_CLASSES = 6


def tiny_config(**model: Any) -> Config:
    """Return a complete configuration with derived values filled in; keywords set fields of its ModelConfig."""
    rpn = RPNConfig(
        anchor_scale=4, anchors_per_image=32, train_pre_nms=50, train_proposals=40, test_pre_nms=50, test_proposals=30
    )
    sizes: dict[str, Any] = {
        "name": "htc", "channels": 8, "fc_channels": 16, "mask_convs": 1, "semantic_convs": 1, "logit_std": 0.01,
        "roi_sampling": 1, "rois_per_image": 16, "rpn": rpn,
    }  # fmt: skip
    config = Config(
        model=ModelConfig(**{**sizes, **model}),
        backbone=BackboneConfig(name="resnet18", width=8, norm=Norm.gn, frozen_stages=-1, weights=None),
        data=DataConfig(name="tiny", root="nowhere", semantic_classes=SEMANTIC_CLASSES, workers=0),
        schedule=ScheduleConfig(iterations=6, batch_size=2, reference_batch=2, warmup_iterations=0),
        wandb=WandbConfig(mode=WandbMode.disabled),
        device="cpu",
        progress=False,
    )
    check(config)
    derive(config)
    return config


def tiny_detector(config: Config, seed: int = 0, num_classes: int = NUM_CLASSES) -> Detector:
    """Build the network of a configuration with random weights that depend on `seed` only."""
    torch.manual_seed(seed)
    return build_detector(config, num_classes)


def tiny_image(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """Return an image [3, height, width] uint8 of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def tiny_targets(height: int = 64, width: int = 96, number: int = 3, seed: int = 0) -> Targets:
    """Return `number` rectangular objects with random classes, and random semantic labels with some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.5
    sides = 12 + torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.35
    boxes = torch.cat([corners, corners + sides], 1)
    masks = torch.zeros(number, height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    semantic = torch.randint(0, SEMANTIC_CLASSES, (height, width), dtype=torch.uint8, generator=generator)
    semantic[:8] = 255
    labels = torch.randint(0, NUM_CLASSES, (number,), generator=generator)
    return Targets(boxes, labels, masks, semantic, seed)


def tiny_batch(number: int = 3) -> tuple[list[Tensor], list[Targets]]:
    """Return two images of different sizes and their targets, each with `number` objects."""
    sizes = [(64, 96), (80, 72)]
    images = [tiny_image(*size, seed=i) for i, size in enumerate(sizes)]
    return images, [tiny_targets(*size, number=number, seed=i) for i, size in enumerate(sizes)]


def without_objects(targets: Targets) -> Targets:
    """Return the targets of an image without its objects; the semantic labels stay."""
    return replace(targets, boxes=targets.boxes[:0], labels=targets.labels[:0], masks=targets.masks[:0])
