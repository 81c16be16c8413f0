"""Sampling of the RoIs that a stage is trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from htc.models.roi_sampling import RoISampler, RoISamples
from htc.structures import Targets
from tests.helpers.tiny import NUM_CLASSES, tiny_targets, without_objects

SAMPLER = RoISampler(
    rois_per_image=32, positive_fraction=0.25, positive_iou=0.5, low_quality_matches=False, num_classes=NUM_CLASSES
)


def proposals(seed: int) -> Tensor:
    """Return 300 boxes of a 64 x 96 image, a third of them near its objects."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(200, 2, generator=generator) * torch.tensor([60.0, 40.0])
    anywhere = torch.cat([corners, corners + 5 + 30 * torch.rand(200, 2, generator=generator)], 1)
    near = tiny_targets(seed=seed).boxes[torch.arange(100) % 3] + torch.randn(100, 4, generator=generator)
    return torch.cat([anywhere, near])


def rois_of(samples: RoISamples, image: int) -> Tensor:
    return samples.rois[samples.rois[:, 0] == image, 1:]


def batch() -> tuple[list[Tensor], list[Targets]]:
    return [proposals(0), proposals(1)], [tiny_targets(seed=0), tiny_targets(seed=1)]


def test_positives_fill_their_share_and_have_the_class_and_box_of_their_object() -> None:
    boxes, targets = batch()
    samples = SAMPLER(boxes, targets, round=0)
    assert len(samples.rois) == 64 and len(samples.positives) == 16
    for k in samples.positives.tolist():
        target = targets[int(samples.rois[k, 0])]
        assert torch.equal(samples.matched_boxes[k], target.boxes[samples.matched_indices[k]])
        assert samples.labels[k] == target.labels[samples.matched_indices[k]]
    background = samples.labels == NUM_CLASSES
    assert int(background.sum()) == 48 and not samples.matched_boxes[background].any()
    assert not samples.appended[background].any()


def test_same_seed_draws_the_same_samples_and_another_seed_different_ones() -> None:
    boxes, targets = batch()
    first = SAMPLER(boxes, targets, round=0)
    assert torch.equal(first.rois, SAMPLER(boxes, targets, round=0).rois)
    targets[0].seed += 1000
    second = SAMPLER(boxes, targets, round=0)
    assert not torch.equal(rois_of(first, 0), rois_of(second, 0))
    assert torch.equal(rois_of(first, 1), rois_of(second, 1)), "the other image keeps its samples"


def test_rounds_of_one_step_draw_different_samples() -> None:
    boxes, targets = batch()
    first, second = (SAMPLER(boxes, targets, round=k).rois for k in (0, 1))
    assert not torch.equal(first, second)


def test_ground_truth_boxes_are_among_the_candidates() -> None:
    targets = tiny_targets()
    sampler = RoISampler(10_000, 1.0, 0.5, False, NUM_CLASSES)
    samples = sampler([proposals(0)], [targets], round=0)
    assert torch.equal(samples.rois[samples.appended, 1:], targets.boxes)
    assert torch.equal(samples.matched_indices[samples.appended], torch.arange(3))
    assert len(samples.rois) == 303


@pytest.mark.parametrize(("low_quality", "expected"), [(False, 0), (True, 1)])
def test_ground_truth_box_is_not_the_low_quality_match_of_its_own_object(low_quality: bool, expected: int) -> None:
    """The proposal is the second object's best match only if that object's own box is not a candidate."""
    targets = tiny_targets(number=2)
    targets.boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0], [10.0, 10.0, 50.0, 44.0]])
    sampler = RoISampler(10, 1.0, 0.5, low_quality, NUM_CLASSES)
    samples = sampler([torch.tensor([[10.0, 10.0, 50.0, 49.0]])], [targets], round=0)
    assert samples.matched_indices[~samples.appended].tolist() == [expected]
    assert samples.matched_indices[samples.appended].tolist() == [0, 1]


def test_image_without_objects_gives_only_background() -> None:
    samples = SAMPLER([proposals(0)], [without_objects(tiny_targets())], round=0)
    assert len(samples.rois) == 32 and len(samples.positives) == 0
    assert not samples.matched_indices.any()
