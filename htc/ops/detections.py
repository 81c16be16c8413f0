"""Selection of the detections of one image from class scores and boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.nms import grouped_nms


def select_detections(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best detections of one image after non-maximum suppression within each class.

    Args:
        boxes: [n, 4], or [n, classes, 4] where regression is class-specific; xyxy in pixels.
        scores: [n, classes + 1] class probabilities, background last.
        score_threshold: detections have a score above this.
        nms_iou: a box is suppressed if its IoU with a better box of its class exceeds this.
        max_detections: keep at most this many detections.

    Returns:
        boxes [k, 4], scores [k] and labels [k] int64, best first.
    """
    scores = scores[:, :-1]
    rows, labels = torch.nonzero(scores > score_threshold, as_tuple=True)
    kept_scores = scores[rows, labels]
    kept_boxes = boxes[rows] if boxes.dim() == 2 else boxes[rows, labels]
    keep = grouped_nms(kept_boxes, kept_scores, labels, nms_iou)[:max_detections]
    return kept_boxes[keep], kept_scores[keep], labels[keep]
