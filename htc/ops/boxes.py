"""Boxes and their deltas. Boxes are `xyxy` float tensors in pixels.

Deltas follow Faster R-CNN (arXiv 1506.01497, equation 2) with the clipping of the reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Limit of |dw| and |dh| when deltas are decoded."""


def box_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the widths and the heights of boxes [..., 4], two tensors [...]."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width, height


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the intersection over union of each of `a` [n, 4] with each of `b` [m, 4], as [n, m].

    The IoU with a box without area is 0, not NaN: unions are at least `eps` square pixels.
    """
    (a_width, a_height), (b_width, b_height) = box_sides(a[:, None]), box_sides(b)
    # In place: for an image with many objects and all anchors, each [n, m] tensor takes over 100 MB.
    intersection = _overlap(a[:, None, 0::2], b[:, 0::2]).mul_(_overlap(a[:, None, 1::2], b[:, 1::2]))
    union = (a_width * a_height + b_width * b_height).sub_(intersection).clamp_(min=eps)
    return intersection.div_(union)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the length of the overlap of each interval of `a` [n, 1, 2] with each of `b` [m, 2], as [n, m]."""
    return torch.min(a[..., 1], b[..., 1]).sub_(torch.max(a[..., 0], b[..., 0])).clamp_(min=0)


def encode_deltas(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Return the deltas (dx, dy, dw, dh) [n, 4] that move `boxes` [n, 4] to `targets` [n, 4], divided by `stds`."""
    (width, height), (target_width, target_height) = box_sides(boxes), box_sides(targets)
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    target_centres = (targets[:, :2] + targets[:, 2:]) * 0.5
    shift = target_centres - centres
    deltas = torch.stack(
        [
            shift[:, 0] / width,
            shift[:, 1] / height,
            torch.log(target_width / width),
            torch.log(target_height / height),
        ],
        dim=-1,
    )
    return deltas / deltas.new_tensor(stds)


def decode_deltas(boxes: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Apply deltas [n, 4] to boxes [n, 4] and return the moved boxes [n, 4]; the inverse of `encode_deltas`.

    Each side grows or shrinks by a factor of at most 1000 / 16.
    """
    deltas = deltas.float() * deltas.new_tensor(stds, dtype=torch.float32)
    sides = torch.stack(box_sides(boxes), dim=-1)
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + sides * deltas[:, :2]
    half_sides = sides * deltas[:, 2:].clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO).exp() * 0.5
    return torch.cat([centres - half_sides, centres + half_sides], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes [n, 4] to an image of `size` (height, width) in pixels."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)
