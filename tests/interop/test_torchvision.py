"""torchvision's Mask R-CNN: our network gives the same detections; torchvision's other detectors are refused."""

from __future__ import annotations

import re
from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import box_iou

from htc.checkpoint.safe_loading import load_tensors
from htc.errors import UserError
from htc.interop.coco_categories import coco_ids, coco_names
from htc.interop.importer import read_external_checkpoint
from htc.trained_model import TrainedModel, load_trained_model
from tests.helpers.checkpoints import ODD_WEIGHTS, assert_same_tensors, save
from tests.helpers.fuzzing import fuzz, is_sentence

SIZE = (128, 192)


def unused_ids() -> list[int]:
    return sorted(set(range(1, 91)) - set(coco_ids()))


@cache
def their_model(num_classes: int) -> Any:
    """Return a model with random weights that detects objects of many classes, with masks that are not constant."""
    torch.manual_seed(num_classes)
    model: Any = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=SIZE[0], max_size=SIZE[1],
        box_score_thresh=0.02,
    ).eval()  # fmt: skip
    # torchvision does this for its published weights.
    detection._utils.overwrite_eps(model, 0.0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif re.search(r"bn\d\.weight|downsample\.1\.weight", name):
                value.uniform_(0.2, 0.5)
            elif re.search(r"(bn\d\.bias|running_mean)", name):
                value.normal_(0, 0.1)
        for part, scale in (("rpn.head.cls_logits", 0.2), ("rpn.head.bbox_pred", 0.02)):
            nn.init.normal_(model.get_submodule(part).weight, 0, scale)
        classes = model.roi_heads.box_predictor.cls_score
        nn.init.normal_(classes.weight, 0, 8 / num_classes**0.25)
        # The features of all RoIs are similar. Their mean is subtracted, or one class would win everywhere.
        means: list[Tensor] = []
        hook = model.roi_heads.box_head.register_forward_hook(lambda *call: means.append(call[2].mean(0)))
        model([image().float() / 255])
        hook.remove()
        classes.bias.copy_(-classes.weight @ means[0])
        if num_classes == 91:
            # Trained weights never detect the category ids that COCO does not use.
            classes.bias[unused_ids()] = -1000
        nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, 0, 0.05)
        nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, 0, 0.5)
    return model


def image() -> Tensor:
    """Return an image of smooth blobs, in which the features vary from place to place."""
    small = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(small, SIZE, mode="bicubic")[0].clamp(0, 1) * 255).round().to(torch.uint8)


def load(path: Path, *overrides: str) -> TrainedModel:
    return load_trained_model({"checkpoint": str(path)}, list(overrides))


def refusal(path: Path) -> str:
    """Return the message of the UserError that loading the file raises."""
    with pytest.raises(UserError) as caught:
        load(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("num_classes", [91, 5])
def test_detections_equal_torchvisions(tmp_path: Path, num_classes: int) -> None:
    theirs = their_model(num_classes)
    trained = load(save(tmp_path / "maskrcnn.pth", theirs.state_dict()), "eval.score_threshold=0.02")
    # Epsilon is too small to change these detections, so it is checked by itself.
    assert trained.config.backbone.norm_eps == 0
    pixels = image()
    mask_probs: list[Tensor] = []
    hook = theirs.roi_heads.register_forward_hook(lambda *call: mask_probs.append(call[2][0][0]["masks"][:, 0]))
    with torch.no_grad():
        wanted = theirs([pixels.float() / 255])[0]
    hook.remove()
    assert len(wanted["labels"]) > 20
    found = trained.model.eval().predict([pixels], [SIZE], trained.config.eval)[0]
    ids = torch.tensor(trained.category_ids or range(1, num_classes))
    overlaps = box_iou(wanted["boxes"], found.boxes)
    overlaps[wanted["labels"][:, None] != ids[found.labels]] = 0
    overlap, match = overlaps.max(1)
    assert overlap.min() > 0.999
    assert len(match.unique()) == len(match) == len(found.scores)
    torch.testing.assert_close(found.scores[match], wanted["scores"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.mask_probs[match], mask_probs[0], rtol=1e-3, atol=1e-3)
    assert len(found.labels.unique()) > 3
    assert mask_probs[0].std() > 0.1
    assert trained.category_names == (coco_names() if num_classes == 91 else [f"class {i}" for i in range(1, 5)])


def early_name(name: str) -> str:
    """Return the name of a tensor before torchvision 0.13."""
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name)
    return re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name.replace("rpn.head.conv.0.0.", "rpn.head.conv."))


def import_state(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a file's content under our names."""
    return read_external_checkpoint(content, Path("their.pth")).state


def test_every_form_of_a_file_gives_the_same_tensors() -> None:
    state = their_model(5).state_dict()
    early = {early_name(name): value for name, value in state.items()}
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.weight", "roi_heads.mask_head.mask_fcn1.bias"} <= set(
        early
    )
    wanted = import_state(state)
    for content in (
        early, {"model": state, "optimizer": {}, "epoch": 3}, {f"module.{name}": value for name, value in state.items()}
    ):  # fmt: skip
        assert_same_tensors(import_state(content), wanted)


def test_training_arguments_in_the_file_are_ignored(tmp_path: Path) -> None:
    """torchvision's training script saves its arguments."""
    state = their_model(5).state_dict()
    path = save(tmp_path / "model_25.pth", {"model": state, "args": Namespace(lr=0.02, device="cuda"), "epoch": 25})
    assert_same_tensors(import_state(load_tensors(path, "checkpoint")), import_state(state))


def test_background_moves_to_the_end_and_unused_ids_are_left_out() -> None:
    state = their_model(91).state_dict()
    prefix = "roi_heads.box_predictor."
    classes, deltas = state[f"{prefix}cls_score.weight"], state[f"{prefix}bbox_pred.weight"].view(91, 4, -1)
    found = import_state(state)
    assert torch.equal(found["cascade.box_heads.0.logits.weight"][-1], classes[0])
    for row, category in ((0, 1), (79, 90), (11, 13)):  # person, toothbrush, stop sign
        assert coco_ids()[row] == category
        assert torch.equal(found["cascade.box_heads.0.logits.weight"][row], classes[category])
        assert torch.equal(found["cascade.box_heads.0.deltas.weight"].view(80, 4, -1)[row], deltas[category])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("maskrcnn_resnet50_fpn_v2", "layers of maskrcnn_resnet50_fpn"),
        ("keypointrcnn_resnet50_fpn", "roi_heads.keypoint_"),
        ("fasterrcnn_resnet50_fpn", "1 box and 0 mask heads"),
        ("fasterrcnn_mobilenet_v3_large_fpn", "0 mask heads"),
        ("retinanet_resnet50_fpn", "neither a checkpoint of this project nor"),
    ],
)
def test_other_detectors_of_torchvision_are_refused(tmp_path: Path, name: str, part: str) -> None:
    with torch.device("meta"):
        shapes = getattr(detection, name)(weights=None, weights_backbone=None).state_dict()
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in shapes.items()}
    assert part in refusal(save(tmp_path / "other.pth", state))


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        ("roi_heads.mask_predictor.conv5_mask.bias", "1 missing"), ("backbone.fpn.inner_blocks.2.0.bias", "1 missing"),
        ("roi_heads.mask_predictor.mask_fcn_logits.weight", "1 box and 0 mask heads"),
    ],
)  # fmt: skip
def test_incomplete_file_is_refused(tmp_path: Path, missing: str, part: str) -> None:
    state = {name: value for name, value in their_model(5).state_dict().items() if name != missing}
    assert part in refusal(save(tmp_path / "part.pth", state))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bbox_pred.weight", torch.zeros(5, 1024)), ("bbox_pred.bias", torch.zeros(())),
        ("cls_score.weight", torch.zeros(1, 1024)), ("cls_score.bias", torch.ones(8).to_sparse()),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_classes_are_refused_by_name(name: str, tensor: Tensor) -> None:
    name = f"roi_heads.box_predictor.{name}"
    with pytest.raises(UserError, match=rf"has a {name} that does not hold \d rows of plain numbers per class"):
        import_state({**their_model(5).state_dict(), name: tensor})


@fuzz(50)
@given(number=st.integers(0, 10_000), tensor=ODD_WEIGHTS)
def test_any_tensor_in_a_file_is_read_or_refused_in_a_sentence(number: int, tensor: Tensor) -> None:
    state = their_model(5).state_dict()
    name = sorted(state)[number % len(state)]
    sentence = None
    try:
        import_state({**state, name: tensor})
    except UserError as error:
        sentence = error.sentence
    assert sentence is None or is_sentence(sentence)
