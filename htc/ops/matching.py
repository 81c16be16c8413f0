"""Which object each box is compared with, and which boxes are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.boxes import pairwise_iou

NEGATIVE = -1
IGNORED = -2


def match_boxes(
    boxes: Tensor,
    objects: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
) -> Tensor:
    """Assign boxes [n, 4] to objects [m, 4] by overlap -> int64 [n].

    The value is the index of an object, NEGATIVE (all overlaps below `negative_iou`), or IGNORED (in between). With
    `low_quality_iou`, each object also takes the boxes that overlap it most, ties included, if they do so by at least
    that much, whatever these boxes matched before; of several such objects the last one wins (Faster R-CNN section
    3.1.2, as the reference implementation resolves it).
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
        claims = (overlaps == best_of_object) & (best_of_object >= low_quality_iou)
        order = torch.arange(len(objects), device=boxes.device, dtype=torch.int32)[:, None]
        claimed = torch.where(claims, order, NEGATIVE).max(dim=0).values
        matched = torch.where(claimed >= 0, claimed.long(), matched)
    return matched


def sample_matches(
    matched: Tensor, number: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Pick at most `number` of the matched boxes at random -> indices of positives and of negatives, int64.

    Positives fill at most `positive_fraction` of the number, negatives the rest. `generator` lives on the CPU, so
    that a seed means the same on every device.
    """

    def pick(candidates: Tensor, limit: int) -> Tensor:
        if len(candidates) <= limit:
            return candidates
        chosen = torch.randperm(len(candidates), generator=generator)[:limit]
        return candidates[chosen.to(candidates.device)]

    positives = pick(torch.nonzero(matched >= 0).squeeze(1), int(number * positive_fraction))
    negatives = pick(torch.nonzero(matched == NEGATIVE).squeeze(1), number - len(positives))
    return positives, negatives
