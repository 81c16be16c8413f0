"""Non-maximum suppression within groups."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms

from htc.ops import nms
from htc.ops.nms import grouped_nms


def random_boxes(number: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 60], 1)
    scores = torch.randperm(number, generator=generator) / number
    return boxes, scores, torch.randint(0, 4, (number,), generator=generator)


@pytest.mark.parametrize("max_boxes", [10_000, 10])
def test_boxes_with_distinct_scores_are_kept_as_by_torchvision(monkeypatch: pytest.MonkeyPatch, max_boxes: int) -> None:
    monkeypatch.setattr(nms, "MAX_BOXES_IN_ONE_PASS", max_boxes)
    boxes, scores, groups = random_boxes(500)
    keep = grouped_nms(boxes, scores, groups, 0.5)
    assert 20 < len(keep) < 400
    assert torch.equal(keep, batched_nms(boxes, scores, groups, 0.5))


def test_exactly_one_of_equal_boxes_is_kept_in_each_group() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(300, 1)
    groups = torch.arange(300) % 3
    keep = grouped_nms(boxes, torch.full((300,), 0.9), groups, 0.5)
    assert sorted(groups[keep].tolist()) == [0, 1, 2]


def test_boxes_of_equal_scores_are_processed_in_the_order_of_pytorchs_sort() -> None:
    boxes, _, groups = random_boxes(1000, seed=1)
    scores = (torch.arange(1000) // 100).float()
    order = scores.sort(descending=True).indices
    distinct = torch.empty(1000)
    distinct[order] = torch.arange(1000, 0, -1).float()
    assert torch.equal(grouped_nms(boxes, scores, groups, 0.5), batched_nms(boxes, distinct, groups, 0.5))


def test_no_boxes_give_no_indices() -> None:
    keep = grouped_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert keep.shape == (0,) and keep.dtype == torch.int64
