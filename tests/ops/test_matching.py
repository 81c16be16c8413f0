"""Matching of boxes to objects, and sampling of the boxes that are trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from htc.ops.matching import IGNORED, NEGATIVE, match_boxes, sample_matches


def strips(*widths: float) -> Tensor:
    """Boxes of the given widths from the same corner; their IoU with [0, 0, 10, 10] is width / 10."""
    return torch.tensor([[0.0, 0.0, width, 10.0] for width in widths])


def test_boxes_are_positive_ignored_or_negative_by_their_iou() -> None:
    matched = match_boxes(strips(10, 7, 6.9, 3.1, 2.9), strips(10), positive_iou=0.7, negative_iou=0.3)
    assert matched.tolist() == [0, 0, IGNORED, IGNORED, NEGATIVE]


def test_box_is_matched_to_the_object_it_overlaps_most() -> None:
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]])
    boxes = torch.tensor([[0.5, 0.0, 10.5, 10.0], [1.5, 0.0, 11.5, 10.0]])
    assert match_boxes(boxes, objects, positive_iou=0.5, negative_iou=0.5).tolist() == [0, 1]


def test_object_without_a_positive_box_is_matched_to_its_best_boxes_ties_included() -> None:
    boxes = torch.cat([strips(5, 4), torch.tensor([[5.0, 0.0, 10.0, 10.0]])])
    thresholds = {"positive_iou": 0.7, "negative_iou": 0.3}
    assert match_boxes(boxes, strips(10), **thresholds).tolist() == [IGNORED] * 3
    assert match_boxes(boxes, strips(10), **thresholds, low_quality_iou=0.3).tolist() == [0, IGNORED, 0]


def test_low_quality_match_below_its_own_threshold_is_not_made() -> None:
    matched = match_boxes(strips(2), strips(10), positive_iou=0.7, negative_iou=0.3, low_quality_iou=0.3)
    assert matched.tolist() == [NEGATIVE]


def test_last_of_several_low_quality_matches_of_a_box_wins() -> None:
    objects = torch.cat([strips(10), strips(10), strips(9)])
    box = strips(10)
    assert match_boxes(box, objects, positive_iou=0.7, negative_iou=0.3).tolist() == [0]
    matched = match_boxes(box, objects, positive_iou=0.7, negative_iou=0.3, low_quality_iou=0.3)
    assert matched.tolist() == [2], "the third object overlaps the box less, but has no better one"


def test_without_objects_every_box_is_background() -> None:
    matched = match_boxes(strips(10, 5), torch.zeros(0, 4), positive_iou=0.5, negative_iou=0.5, low_quality_iou=0)
    assert matched.tolist() == [NEGATIVE, NEGATIVE]


def test_no_boxes_give_no_matches() -> None:
    assert match_boxes(torch.zeros(0, 4), strips(10), positive_iou=0.5, negative_iou=0.5).shape == (0,)


@pytest.mark.parametrize(
    ("available", "max_samples", "fraction", "expected"),
    [
        ((100, 1000), 64, 0.25, (16, 48)),
        ((3, 1000), 64, 0.25, (3, 61)),
        ((100, 10), 64, 0.25, (16, 10)),
        ((0, 10), 64, 0.5, (0, 10)),
        ((10, 0), 64, 0.5, (10, 0)),
        ((0, 0), 64, 0.5, (0, 0)),
    ],
)
def test_positives_fill_their_share_and_negatives_the_rest(
    available: tuple[int, int], max_samples: int, fraction: float, expected: tuple[int, int]
) -> None:
    matched = torch.cat([torch.full((available[0],), 2), torch.full((available[1],), NEGATIVE), torch.full((50,), -2)])
    positives, negatives = sample_matches(matched, max_samples, fraction, torch.Generator().manual_seed(0))
    assert (len(positives), len(negatives)) == expected
    assert (matched[positives] == 2).all() and (matched[negatives] == NEGATIVE).all()
    chosen = torch.cat([positives, negatives]).tolist()
    assert len(set(chosen)) == len(chosen)


def test_same_seed_gives_the_same_sample_and_another_seed_a_different_one() -> None:
    matched = torch.arange(400) % 2 - 1

    def sample(seed: int) -> list[list[int]]:
        return [part.tolist() for part in sample_matches(matched, 40, 0.5, torch.Generator().manual_seed(seed))]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
