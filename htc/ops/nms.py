"""Non-maximum suppression within groups (Faster R-CNN section 3.3), in the order of the reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

# Above this many boxes the groups are taken one by one: the cost of one pass grows with the square.
ONE_PASS = 10_000


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that stay, best first: suppressed by better ones of their own group alone.

    boxes: [n, 4]; scores: [n]; groups: [n] int64 (levels or classes). The result depends on the order of equal scores,
    which confident networks have; it is that of PyTorch's sort, as in MMDetection (mmcv.ops.batched_nms), where
    torchvision's own would keep the order of the input.
    """
    if len(boxes) == 0:
        return groups
    # Far apart, boxes of two groups never overlap.
    apart = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    if len(boxes) < ONE_PASS:
        return _nms(apart, scores, iou)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        members = torch.nonzero(groups == group).squeeze(1)
        keep[members[_nms(apart[members], scores[members], iou)]] = True
    kept = torch.nonzero(keep).squeeze(1)
    return kept[scores[kept].sort(descending=True).indices]


def _nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    order = scores.sort(descending=True).indices
    # Ranks instead of scores, so that equal ones stay in this order.
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=torch.float32)
    return order[nms(boxes[order], ranks, iou)]
