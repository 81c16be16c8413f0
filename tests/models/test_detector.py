"""The complete network: batching, seeds, and the frames of its detections."""

from __future__ import annotations

import pytest
import torch

from htc.config.schema import BackboneConfig, EvalConfig
from htc.errors import UserError
from htc.models.detector import batch_labels
from htc.models.roi_features import pyramid_levels
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector, tiny_image, tiny_targets

HTC = {"interleaved": True, "mask_flow": True, "semantic": True}
SIZES = [(64, 96), (80, 72)]


def test_images_are_normalised_and_then_padded_with_zeros() -> None:
    images, _ = tiny_batch()
    batch = tiny_detector(tiny_config()).batch(images)
    assert batch.shape == (2, 3, 96, 96)
    pixels = BackboneConfig()
    mean, std = torch.tensor(pixels.pixel_mean).view(3, 1, 1), torch.tensor(pixels.pixel_std).view(3, 1, 1)
    for slot, image in zip(batch, images, strict=True):
        height, width = image.shape[1:]
        torch.testing.assert_close(slot[:, :height, :width], (image - mean) / std)
        assert not slot[:, height:].any() and not slot[:, :, width:].any()


def test_semantic_labels_of_the_padding_are_ignored() -> None:
    _, targets = tiny_batch()
    labels = batch_labels(targets, 96, 96)
    assert targets[1].semantic is not None
    assert torch.equal(labels[1, :80, :72], targets[1].semantic)
    assert (labels[1, 80:] == 255).all() and (labels[1, :, 72:] == 255).all()


def test_predictions_are_reproducible() -> None:
    model = tiny_detector(tiny_config(**HTC)).eval()
    images, _ = tiny_batch()
    first, second = (model.predict(images, SIZES, EvalConfig(score_threshold=0.0)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels) and torch.equal(a.mask_probs, b.mask_probs)


def test_detections_are_in_the_frame_of_the_original_image() -> None:
    model = tiny_detector(tiny_config(**HTC)).eval()
    images, _ = tiny_batch()
    same = model.predict(images, SIZES, EvalConfig(score_threshold=0.0))
    larger = model.predict(images, [(128, 288), (40, 36)], EvalConfig(score_threshold=0.0))
    for a, b, factor in zip(same, larger, [(3.0, 2.0), (0.5, 0.5)], strict=True):
        torch.testing.assert_close(b.boxes, a.boxes * torch.tensor(factor * 2))
        assert torch.equal(a.mask_probs, b.mask_probs)


def test_sampling_depends_only_on_the_seeds_of_the_images() -> None:
    """The same targets give the same samples, whatever the global random state is."""
    model = tiny_detector(tiny_config(**HTC)).train()
    torch.manual_seed(1)
    first = model(*tiny_batch())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert model(*tiny_batch()) == first
    assert torch.equal(torch.get_rng_state(), state)
    images, targets = tiny_batch()
    targets[0].seed += 1000
    assert model(images, targets) != first


def test_same_seed_gives_the_same_network() -> None:
    states = [tiny_detector(tiny_config(**HTC), seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_single_image_of_any_shape_is_accepted() -> None:
    model = tiny_detector(tiny_config(**HTC))
    for height, width in ((33, 100), (100, 33), (64, 64)):
        images = [tiny_image(height, width)]
        losses = model.train()(images, [tiny_targets(height, width, 1)])
        assert all(value.isfinite() for value in losses.values())
        assert len(model.eval().predict(images, [(height, width)], EvalConfig(score_threshold=0.0))) == 1


def test_too_few_semantic_classes_for_the_categories_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.semantic_classes=6 must exceed the 6 categories"):
        tiny_detector(tiny_config(**HTC), num_classes=6)
    tiny_detector(tiny_config(), num_classes=6)


def test_rois_are_pooled_from_the_level_of_their_size() -> None:
    sides = torch.tensor([10.0, 111.0, 112.0, 223.0, 224.0, 448.0, 2000.0])
    rois = torch.stack([sides * 0, sides * 0, sides * 0, sides, sides], 1)
    assert pyramid_levels(rois).tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert pyramid_levels(torch.tensor([[0.0, 5, 5, 5, 9]])).tolist() == [0]
