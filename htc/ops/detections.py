"""From class scores and boxes to the detections of one image."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.nms import grouped_nms


def select_detections(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Non-maximum suppression within each class -> boxes [k, 4], scores [k], labels [k], best first.

    boxes: [n, 4], or [n, classes, 4] where regression is class-specific; scores: [n, classes + 1], background last.
    """
    scores = scores[:, :-1]
    rows, labels = torch.nonzero(scores > score_threshold, as_tuple=True)
    kept_scores = scores[rows, labels]
    kept_boxes = boxes[rows] if boxes.dim() == 2 else boxes[rows, labels]
    keep = grouped_nms(kept_boxes, kept_scores, labels, nms_iou)[:max_detections]
    return kept_boxes[keep], kept_scores[keep], labels[keep]
