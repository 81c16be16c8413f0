"""Non-maximum suppression within groups (Faster R-CNN section 3.3), with the reference's order of equal scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

MAX_BOXES_IN_ONE_PASS = 10_000
"""From this many boxes on, the groups are processed one by one: the cost of one pass grows quadratically."""


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Return the indices of the boxes that remain after suppression within each group, best first.

    The result depends on the order of equal scores, which confident networks produce. That order is the one of
    PyTorch's sort, as in MMDetection (mmcv.ops.batched_nms); torchvision's batched_nms keeps the order of the input.

    Args:
        boxes: [n, 4] xyxy.
        scores: [n].
        groups: [n] int64, pyramid level or class of each box; boxes of different groups do not suppress each other.
        iou: a box is suppressed if its IoU with a better box of its group exceeds this.

    Returns:
        int64 [k], indices into `boxes`.
    """
    if len(boxes) == 0:
        return groups
    # Each group is shifted by its own offset, so that boxes of different groups do not overlap.
    shifted = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    if len(boxes) < MAX_BOXES_IN_ONE_PASS:
        return _nms(shifted, scores, iou)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        members = torch.nonzero(groups == group).squeeze(1)
        keep[members[_nms(shifted[members], scores[members], iou)]] = True
    kept = torch.nonzero(keep).squeeze(1)
    return kept[scores[kept].sort(descending=True).indices]


def _nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    order = scores.sort(descending=True).indices
    # Ranks replace the scores, so that boxes of equal score keep this order.
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=torch.float32)
    return order[nms(boxes[order], ranks, iou)]
