"""Selection of detections from scores and boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.detections import select_detections

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])


def select(boxes: Tensor, scores: Tensor, threshold: float = 0.05, limit: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    return select_detections(boxes, scores, score_threshold=threshold, nms_iou=0.5, max_detections=limit)


def test_overlapping_boxes_of_the_same_class_are_suppressed_and_of_different_classes_kept() -> None:
    scores = torch.tensor([[0.6, 0.0, 0.4], [0.7, 0.3, 0.0], [0.2, 0.0, 0.8]])
    boxes, kept_scores, labels = select(BOXES, scores)
    assert torch.equal(kept_scores, torch.tensor([0.7, 0.3, 0.2]))
    assert labels.tolist() == [0, 1, 0]
    assert torch.equal(boxes, BOXES[[1, 1, 2]])


def test_background_is_never_detected() -> None:
    boxes, scores, labels = select(BOXES, torch.tensor([[0.0, 0.0, 1.0]] * 3))
    assert boxes.shape == (0, 4) and scores.shape == (0,) and labels.shape == (0,)


def test_class_specific_boxes_are_selected_by_the_label() -> None:
    by_class = torch.stack([BOXES, BOXES + 100], dim=1)
    boxes, _, labels = select(by_class, torch.tensor([[0.9, 0.8, 0.0], [0.0, 0.0, 1.0], [0.1, 0.7, 0.2]]))
    assert labels.tolist() == [0, 1, 1, 0]
    assert torch.equal(boxes, torch.stack([BOXES[0], BOXES[0] + 100, BOXES[2] + 100, BOXES[2]]))


def test_only_detections_with_scores_above_the_threshold_are_kept() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 1.0], [0.4, 0.0, 0.6]])
    assert len(select(BOXES, scores, threshold=0.4)[0]) == 1
    assert len(select(BOXES, scores, threshold=1.0)[0]) == 0


def test_at_most_max_detections_are_kept_best_first() -> None:
    corners = torch.arange(20.0)[:, None] * 100
    boxes = torch.cat([corners, corners, corners + 10, corners + 10], 1)
    scores = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    best = scores[:, :3].flatten().sort(descending=True).values
    assert torch.equal(select(boxes, scores, limit=7)[1], best[:7])


def test_no_boxes_give_no_detections() -> None:
    assert [len(part) for part in select(torch.zeros(0, 4), torch.zeros(0, 3))] == [0, 0, 0]
    assert [len(part) for part in select(torch.zeros(0, 2, 4), torch.zeros(0, 3))] == [0, 0, 0]
