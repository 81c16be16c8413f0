"""Boxes and their deltas. Boxes are `xyxy` float tensors in pixels.

Deltas follow Faster R-CNN (arXiv 1506.01497, equation 2) with the clipping of the reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))


def box_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Widths and heights of [..., 4] boxes, two tensors [...]."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width, height


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union of [n, 4] with [m, 4] boxes -> [n, m]; 0, not NaN, for boxes without area."""
    (aw, ah), (bw, bh) = box_sides(a[:, None]), box_sides(b)
    # In place: of an image with many objects and all anchors, each tensor [n, m] takes a hundred megabytes and more.
    intersection = _overlap(a[:, None, 0::2], b[:, 0::2]).mul_(_overlap(a[:, None, 1::2], b[:, 1::2]))
    union = (aw * ah + bw * bh).sub_(intersection).clamp_(min=eps)
    return intersection.div_(union)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Length that intervals [n, 1, 2] have in common with [m, 2] ones -> [n, m]."""
    return torch.min(a[..., 1], b[..., 1]).sub_(torch.max(a[..., 0], b[..., 0])).clamp_(min=0)


def encode_deltas(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Deltas (dx, dy, dw, dh) that take `boxes` [n, 4] to `targets` [n, 4], divided by `stds` -> [n, 4]."""
    (w, h), (tw, th) = box_sides(boxes), box_sides(targets)
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    target_centres = (targets[:, :2] + targets[:, 2:]) * 0.5
    shift = target_centres - centres
    deltas = torch.stack([shift[:, 0] / w, shift[:, 1] / h, torch.log(tw / w), torch.log(th / h)], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode_deltas(boxes: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Apply deltas [n, 4] to boxes [n, 4] -> [n, 4]; the inverse of `encode_deltas`.

    Growth and shrinking are limited to a factor of 1000 / 16 a side.
    """
    deltas = deltas.float() * deltas.new_tensor(stds, dtype=torch.float32)
    w, h = box_sides(boxes)
    sides = torch.stack([w, h], dim=-1)
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + sides * deltas[:, :2]
    half = sides * deltas[:, 2:].clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO).exp() * 0.5
    return torch.cat([centres - half, centres + half], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip [n, 4] boxes to an image of `size` (height, width)."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)
