"""Matching of boxes to ground-truth objects, and sampling of the boxes that are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.boxes import pairwise_iou

NEGATIVE = -1
"""Match of a box that overlaps no object enough: background."""
IGNORED = -2
"""Match of a box that is neither a positive nor a negative, and is not trained on."""


def match_boxes(
    boxes: Tensor,
    objects: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
) -> Tensor:
    """Match boxes to objects by their overlap (Faster R-CNN section 3.1.2).

    Args:
        boxes: [n, 4] anchors or proposals, xyxy.
        objects: [m, 4] ground-truth boxes, xyxy.
        positive_iou: a box whose highest IoU is at least this is matched to that object.
        negative_iou: a box whose highest IoU is below this is NEGATIVE; the boxes in between are IGNORED.
        low_quality_iou: if given, each object is also matched to the boxes with its highest IoU, ties included,
            provided this IoU is at least `low_quality_iou`. This replaces the earlier match of these boxes. If several
            objects match a box in this way, the last one wins, as in the reference implementation.

    Returns:
        int64 [n]: for each box the index of its object, NEGATIVE or IGNORED.
    """
    matched = torch.full((len(boxes),), IGNORED, dtype=torch.int64, device=boxes.device)
    if len(objects) == 0 or len(boxes) == 0:
        return matched.fill_(NEGATIVE)
    overlaps = pairwise_iou(objects, boxes)
    best, best_object = overlaps.max(dim=0)
    matched[best < negative_iou] = NEGATIVE
    matched = torch.where(best >= positive_iou, best_object, matched)
    if low_quality_iou is not None:
        best_of_object = overlaps.max(dim=1, keepdim=True).values
        is_low_quality = (overlaps == best_of_object) & (best_of_object >= low_quality_iou)
        object_indices = torch.arange(len(objects), device=boxes.device, dtype=torch.int32)[:, None]
        low_quality = torch.where(is_low_quality, object_indices, NEGATIVE).max(dim=0).values
        matched = torch.where(low_quality >= 0, low_quality.long(), matched)
    return matched


def sample_matches(
    matched: Tensor, max_samples: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Pick at most `max_samples` boxes at random, positives and negatives.

    Args:
        matched: [n] int64, the result of `match_boxes`.
        max_samples: number of boxes to pick, if there are enough.
        positive_fraction: share of `max_samples` that positives fill at most; negatives fill the rest.
        generator: random generator on the CPU, so that a seed gives the same sample on every device.

    Returns:
        Indices into `matched` of the picked positives and of the picked negatives, int64.
    """

    def pick(candidates: Tensor, limit: int) -> Tensor:
        if len(candidates) <= limit:
            return candidates
        chosen = torch.randperm(len(candidates), generator=generator)[:limit]
        return candidates[chosen.to(candidates.device)]

    positives = pick(torch.nonzero(matched >= 0).squeeze(1), int(max_samples * positive_fraction))
    negatives = pick(torch.nonzero(matched == NEGATIVE).squeeze(1), max_samples - len(positives))
    return positives, negatives
