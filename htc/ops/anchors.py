"""Anchors of a feature pyramid (Faster R-CNN section 3.1.1; FPN section 4.1)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def base_anchors(stride: int, scale: float, ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Anchors [len(ratios), 4] of area (stride * scale)² around the origin; a ratio is height over width.

    `rounded` to whole pixels as in torchvision, else exact as in the reference.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    widths = stride * (1 / root) * scale
    heights = stride * root * scale
    anchors = torch.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], dim=-1)
    return anchors.round() if rounded else anchors


def grid_anchors(base: Tensor, feature_size: tuple[int, int], stride: int) -> Tensor:
    """Anchors [height * width * len(base), 4] of one level, in the order (row, column, ratio)."""
    height, width = feature_size
    x = torch.arange(width, device=base.device, dtype=base.dtype) * stride
    y = torch.arange(height, device=base.device, dtype=base.dtype) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + base[None]).reshape(-1, 4)


@functools.lru_cache(maxsize=64)
def valid_anchors(
    feature_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    num_ratios: int,
    image_size: tuple[int, int],
    divisor: int = 32,
) -> Tensor:
    """Whether each anchor's cell lies on the image padded to a multiple of `divisor` -> bool [anchors of all levels].

    In a batch of several sizes the cells beyond an image's own padding say nothing about it. The same tensor comes
    back for the same sizes, which are few where images of one shape meet in a batch: not to be written to.
    """
    padded = [-(-side // divisor) * divisor for side in image_size]
    levels = []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        rows = torch.arange(height) < -(-padded[0] // stride)
        columns = torch.arange(width) < -(-padded[1] // stride)
        levels.append((rows[:, None] & columns).reshape(-1, 1).expand(-1, num_ratios).reshape(-1))
    return torch.cat(levels)
