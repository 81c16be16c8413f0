"""Anchors of a feature pyramid (Faster R-CNN section 3.1.1; FPN section 4.1)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def base_anchors(stride: int, scale: float, ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Return anchors of area (stride * scale)² centred on the origin.

    Args:
        stride: pixels per feature cell.
        scale: side of a square anchor in feature cells.
        ratios: height over width of each anchor.
        rounded: round the corners to whole pixels (torchvision); the reference implementation does not.

    Returns:
        [len(ratios), 4] float32, xyxy in pixels.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    widths = stride * (1 / root) * scale
    heights = stride * root * scale
    anchors = torch.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], dim=-1)
    return anchors.round() if rounded else anchors


def grid_anchors(base: Tensor, feature_size: tuple[int, int], stride: int) -> Tensor:
    """Place the `base` anchors [r, 4] on every cell of a level of (height, width) cells.

    Return anchors [height * width * r, 4], xyxy in pixels, in the order (row, column, ratio).
    """
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
    """Mark the anchors whose feature cell lies on one image, after padding to a multiple of `divisor`.

    In a batch of images of several sizes, the cells beyond an image's own padding hold no information about it.
    Results are cached, so callers must not modify the returned tensor in place.

    Args:
        feature_sizes: (height, width) of each pyramid level in cells.
        strides: pixels per cell of each level.
        num_ratios: anchors per cell.
        image_size: (height, width) of the image before padding, in pixels.
        divisor: multiple that the image's sides are padded to, in pixels.

    Returns:
        bool [anchors of all levels], in the order of `grid_anchors`.
    """
    padded = [-(-side // divisor) * divisor for side in image_size]
    levels = []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        rows = torch.arange(height) < -(-padded[0] // stride)
        columns = torch.arange(width) < -(-padded[1] // stride)
        levels.append((rows[:, None] & columns).reshape(-1, 1).expand(-1, num_ratios).reshape(-1))
    return torch.cat(levels)
