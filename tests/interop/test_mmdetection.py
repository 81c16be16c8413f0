"""Checkpoints of MMDetection: recognition, import and lossless export."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from htc.checkpoint.safe_loading import load_tensors
from htc.config.messages import explain
from htc.config.schema import Config, Style
from htc.convert import convert
from htc.errors import UserError
from htc.interop.mmdetection_names import our_name, their_name
from htc.models.detector import Detector
from htc.trained_model import TrainedModel, load_trained_model
from tests.helpers.checkpoints import (
    COUNTER,
    ODD_WEIGHTS,
    assert_same_tensors,
    foreign_module,
    imported_config,
    random_detector,
    save,
    their_state,
)
from tests.helpers.fuzzing import fuzz, is_sentence
from tests.helpers.tiny import tiny_image

MASK_RCNN = {"name": "mask_rcnn", "num_stages": 1, "class_agnostic": False}
CASCADE = {"name": "cascade_mask_rcnn"}
HTC = {"interleaved": True, "mask_flow": True, "semantic": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "mask_rcnn": MASK_RCNN,
    "cascade": CASCADE,
    "class-specific cascade": {**CASCADE, "class_agnostic": False},
    "htc": HTC,
    "htc without semantic branch": {**HTC, "semantic": False},
    "htc without mask flow": {**HTC, "mask_flow": False},
    "htc of two stages": {**HTC, "num_stages": 2},
    "semantic branch and one stage": {**HTC, "mask_flow": False, "num_stages": 1},
    "wider": {**HTC, "channels": 12, "fc_channels": 20, "mask_convs": 2, "semantic_convs": 3},
}
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)


def detector(variant: str) -> tuple[Config, Detector]:
    config = imported_config(**VARIANTS[variant])
    return config, random_detector(config)


def their_file(path: Path, variant: str = "htc") -> tuple[Path, Detector]:
    """Write a checkpoint of MMDetection 3.x without a configuration; return its path and the model that it contains."""
    config, model = detector(variant)
    numbered_heads = config.model.num_stages > 1 or config.model.semantic
    return save(path, {"state_dict": their_state(model, numbered_heads)}), model


def load(path: Path, *overrides: str, **arguments: str) -> TrainedModel:
    return load_trained_model({"checkpoint": str(path), **arguments}, list(overrides))


def refusal(path: Path, *overrides: str) -> str:
    """Return the message of the UserError that loading the file raises."""
    with pytest.raises(UserError) as caught:
        load(path, *overrides)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def bottleneck_detector(**backbone: Any) -> tuple[Config, Detector]:
    config = imported_config(**HTC)
    config.backbone = dataclasses.replace(config.backbone, name="resnet50", **backbone)
    return config, random_detector(config)


@EVERY_VARIANT
def test_import_and_export_of_an_mmdetection_checkpoint_are_lossless(tmp_path: Path, variant: str) -> None:
    path, _ = their_file(tmp_path / "theirs.pth", variant)
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    back = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    assert_same_tensors(load_tensors(back, "checkpoint")["state_dict"], load_tensors(path, "checkpoint")["state_dict"])


@EVERY_VARIANT
def test_network_is_inferred_from_the_tensors(tmp_path: Path, variant: str) -> None:
    path, model = their_file(tmp_path / "theirs.pth", variant)
    trained = load(path)
    assert_same_tensors(trained.model.state_dict(), model.state_dict())
    wanted = {"num_stages": 3, "class_agnostic": True, "mask_flow": False, "semantic": False, "channels": 8}
    wanted |= {key: value for key, value in VARIANTS[variant].items() if key not in ("interleaved", "name")}
    assert {key: getattr(trained.config.model, key) for key in wanted} == wanted
    assert trained.config.model.name == VARIANTS[variant].get("name", "htc")
    assert trained.imported


@EVERY_VARIANT
def test_export_and_import_of_our_checkpoint_are_lossless(tmp_path: Path, variant: str) -> None:
    path, model = their_file(tmp_path / "theirs.pth", variant)
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    theirs = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    again = convert({"checkpoint": str(theirs), "out": str(tmp_path / "again.pt")}, [])
    one, other = (load_tensors(file, "checkpoint") for file in (ours, again))
    assert_same_tensors(one["model"], other["model"])
    assert_same_tensors(one["model"], model.state_dict())
    assert one["categories"] == other["categories"]


@pytest.mark.parametrize("variant", ["htc", "mask_rcnn"])
def test_settings_survive_export_and_import(tmp_path: Path, variant: str) -> None:
    """Settings that tensors do not show are written to the text of the configuration and read from it."""
    path, _ = their_file(tmp_path / "theirs.pth", variant)
    changes = [
        "backbone.bgr=true", "backbone.pixel_mean=[1,2,3]", "backbone.pixel_std=[4,5,6]", "eval.score_threshold=0.001",
        "model.rpn.anchor_scale=4", "model.roi_sampling=2", "model.roi_aligned=false", "backbone.norm_eps=0.001",
        "model.stage_stds=STDS", "eval.nms_iou=0.4", "eval.max_detections=7", "eval.mask_threshold=0.6",
        "model.rpn.test_pre_nms=70",
        "model.rpn.test_proposals=60", "model.rpn.nms_iou=0.65", "data.short_side=600", "data.long_side=900",
    ]  # fmt: skip
    stds = (
        "[[0.1,0.2,0.3,0.4]]" if variant == "mask_rcnn" else "[[0.1,0.2,0.3,0.4],[1.0,1.5,1.0,1.0],[2.0,2.5,2.0,2.0]]"
    )
    changes = [change.replace("STDS", stds) for change in changes]
    changes += ["model.interleaved=false", "model.semantic_fusion=mask"] if variant == "htc" else []
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, changes)
    theirs = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    before, after = load(ours).config, load(theirs).config
    for config in (before, after):
        config.name = config.data.root = ""
    assert after.model == before.model
    assert after.backbone == before.backbone
    assert after.eval == before.eval
    assert (after.data.short_side, after.data.long_side) == (600, 900)


def test_detections_equal_those_of_the_exported_model(tmp_path: Path) -> None:
    config, model = detector("htc")
    path = save(tmp_path / "theirs.pth", {"state_dict": their_state(model)})
    trained = load(
        path, "model.rpn.anchor_scale=4", "model.rpn.test_pre_nms=50", "model.rpn.test_proposals=30",
        "model.roi_sampling=1", "eval.score_threshold=0.01",
    )  # fmt: skip
    images, sizes = [tiny_image()], [(64, 96)]
    one, other = (each.eval().predict(images, sizes, trained.config.eval)[0] for each in (model, trained.model))
    assert len(one.scores) > 5
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.mask_probs, other.mask_probs)
    assert config.model.mask_flow


def test_import_and_export_of_deformable_and_caffe_bottlenecks_are_lossless(tmp_path: Path) -> None:
    _, model = bottleneck_detector(deformable_stages=[2, 3, 4], style=Style.caffe)
    path = save(tmp_path / "theirs.pth", {"state_dict": their_state(model)})
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, ["backbone.style=caffe"])
    config = load(ours).config.backbone
    assert (config.name, config.width, config.deformable_stages) == ("resnet50", 8, [2, 3, 4])
    back = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    exported = load_tensors(back, "checkpoint")
    assert_same_tensors(exported["state_dict"], their_state(model))
    assert "'style': 'caffe'" in exported["meta"]["cfg"]


def without_counter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def early_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the offsets of deformable convolutions to their names in MMDetection 2.0."""
    return {name.replace(".conv2.conv_offset.", ".conv2_offset."): value for name, value in state.items()}


def distributed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the prefix of a model that is wrapped in DistributedDataParallel."""
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": OrderedDict(state), "meta": {"epoch": 12}}])
@pytest.mark.parametrize("rename", [early_names, distributed, lambda state: distributed(early_names(state))])
def test_every_form_of_a_file_gives_the_same_model(
    tmp_path: Path, rename: Callable[..., dict[str, Tensor]], wrap: Callable[..., Any], legacy: bool
) -> None:
    _, model = bottleneck_detector(deformable_stages=[4])
    path = save(tmp_path / "theirs.pth", wrap(rename(their_state(model))), legacy=legacy)
    assert_same_tensors(load(path).model.state_dict(), model.state_dict())


def test_file_without_counters_loads_and_is_exported_with_them(tmp_path: Path) -> None:
    """Batch norms before PyTorch 0.4.1 do not count their batches."""
    _, model = detector("htc")
    path = save(tmp_path / "theirs.pth", without_counter(their_state(model)))
    trained = load(path)
    assert_same_tensors(without_counter(trained.model.state_dict()), without_counter(model.state_dict()))
    exported = convert({"checkpoint": str(path), "out": str(tmp_path / "out.pth"), "to": "mmdetection"}, [])
    assert set(load_tensors(exported, "checkpoint")["state_dict"]) == set(their_state(model))


def test_unused_tensors_are_exported_again(tmp_path: Path) -> None:
    """An embedding in the first mask head, which has no preceding stage, and the mean of the pixels."""
    _, model = detector("htc")
    extra = {
        "roi_head.mask_head.0.conv_res.conv.weight": torch.randn(8, 8, 1, 1),
        "roi_head.mask_head.0.conv_res.conv.bias": torch.randn(8),
        "data_preprocessor.mean": torch.randn(3, 1, 1),
    }
    path = save(tmp_path / "theirs.pth", {"state_dict": {**their_state(model), **extra}})
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    back = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    assert_same_tensors(load_tensors(back, "checkpoint")["state_dict"], {**their_state(model), **extra})


def test_mask_flow_turned_off_by_the_configuration_is_off_and_its_tensors_are_exported_again(tmp_path: Path) -> None:
    path, _ = their_file(tmp_path / "plain.pth")
    text = "model = dict(roi_head=dict(mask_info_flow=False, interleaved=False))"
    state = load_tensors(path, "checkpoint")["state_dict"]
    path = save(tmp_path / "theirs.pth", {"state_dict": state, "meta": {"cfg": text}})
    trained = load(path)
    assert not trained.config.model.mask_flow
    assert not trained.config.model.interleaved
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    back = convert({"checkpoint": str(ours), "out": str(tmp_path / "back.pth")}, [])
    assert_same_tensors(load_tensors(back, "checkpoint")["state_dict"], state)


@pytest.mark.parametrize("text", ["htc/x.py\\nmodel = dict(test_cfg=dict(rcnn=dict(max_per_img=55)))", ""])
def test_configuration_of_2_x_is_read_from_its_own_key(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path, _ = their_file(tmp_path / "plain.pth")
    state = load_tensors(path, "checkpoint")["state_dict"]
    path = save(tmp_path / "theirs.pth", {"state_dict": state, "meta": {"config": text.replace("\\n", "\n")}})
    trained = load(path)
    assert trained.config.eval.max_detections == (55 if text else 100)
    assert ("carries no configuration" in caplog.text) == (not text)
    assert "inferred: model=htc backbone=resnet18 backbone.width=8 model.num_stages=3" in caplog.text
    assert "3 classes" in caplog.text


def test_overrides_of_the_user_win_over_the_configuration_in_the_file(tmp_path: Path) -> None:
    path, _ = their_file(tmp_path / "plain.pth")
    state = load_tensors(path, "checkpoint")["state_dict"]
    text = "model = dict(test_cfg=dict(rcnn=dict(max_per_img=55, score_thr=0.2)))"
    trained = load(save(tmp_path / "t.pth", {"state_dict": state, "meta": {"cfg": text}}), "eval.max_detections=9")
    assert (trained.config.eval.max_detections, trained.config.eval.score_threshold) == (9, 0.2)
    chosen = load(tmp_path / "t.pth", "eval=paper").config.eval
    assert (chosen.max_detections, chosen.score_threshold) == (55, 0.001)
    both = load(tmp_path / "t.pth", "eval=paper", "eval.score_threshold=0.3").config.eval
    assert both.score_threshold == 0.3


@pytest.mark.parametrize(
    "meta", [{"dataset_meta": {"classes": ("a", "b", "c")}}, {"dataset_meta": {"CLASSES": ["a", "b", "c"]}},
             {"CLASSES": ("a", "b", "c")}, {"CLASSES": ("a", "b")}, {"dataset_meta": 3, "CLASSES": None}],
)  # fmt: skip
def test_class_names_are_used_if_their_number_fits(tmp_path: Path, meta: dict[str, Any]) -> None:
    _, model = detector("htc")
    trained = load(save(tmp_path / "theirs.pth", {"state_dict": their_state(model), "meta": meta}))
    fits = any(len(names or ()) == 3 for names in (meta.get("CLASSES"), *dict_values(meta.get("dataset_meta"))))
    assert trained.category_names == (["a", "b", "c"] if fits else ["class 1", "class 2", "class 3"])
    assert trained.category_ids is None


def dict_values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else ()


def test_eighty_classes_without_names_are_cocos(tmp_path: Path) -> None:
    config = imported_config(**CASCADE)
    model = random_detector(config, num_classes=80)
    trained = load(save(tmp_path / "theirs.pth", {"state_dict": their_state(model)}))
    assert trained.category_names[0] == "person"
    assert trained.category_ids is not None
    assert (trained.category_ids[0], trained.category_ids[-1], len(trained.category_ids)) == (1, 90, 80)


class MetaDict(dict[str, Any]):
    """A class of a framework for configurations."""


def test_meta_of_a_foreign_class_is_read(tmp_path: Path) -> None:
    _, model = detector("htc")
    with foreign_module("mmengine.config", MetaDict):
        meta = MetaDict(
            dataset_meta=MetaDict(classes=("a", "b", "c")), cfg="model = dict(test_cfg=dict(rcnn=dict(score_thr=0.3)))"
        )
        path = save(tmp_path / "theirs.pth", {"state_dict": their_state(model), "meta": meta})
    trained = load(path)
    assert trained.category_names == ["a", "b", "c"]
    assert trained.config.eval.score_threshold == 0.3


def changed(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    """Replace, add or remove (None) tensors; `__` in a keyword stands for a dot."""
    result = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in result.items() if value is not None}


# Changes of the tensors, and parts of the message that refuses the file.
MISMATCHES: dict[str, tuple[dict[str, Tensor | None], list[str]]] = {
    "missing": ({"neck__fpn_convs__2__conv__bias": None}, ["1 missing", "neck.fpn_convs.2.conv.bias"]),
    "unexpected": (
        {"roi_head__mask_iou_head__fc__weight": torch.zeros(2)}, ["1 unexpected", "roi_head.mask_iou_head.fc.weight"],
    ),
    "unexpected level of the pyramid": (
        {"neck__fpn_convs__4__conv__bias": torch.zeros(8)}, ["1 unexpected", "neck.fpn_convs.4.conv.bias"],
    ),
    "shape": (
        {"roi_head__bbox_head__1__fc_cls__bias": torch.zeros(9)},
        ["1 of another shape", "roi_head.bbox_head.1.fc_cls.bias: [9] instead of [4]"],
    ),
    "two names of the same tensor": ({"module__roi_head__bbox_head__0__fc_cls__bias": torch.zeros(4)}, ["ambiguous"]),
    "no mask heads": (
        {f"roi_head__mask_head__{i}__conv_logits__weight": None for i in range(3)}, ["3 box and 0 mask heads"],
    ),
    "no pyramid": ({"neck__fpn_convs__0__conv__weight": None}, ["backbone.fpn.layer_blocks.0.0.weight"]),
    "another backbone": ({"backbone__layer3__1__conv1__weight": None}, ["(2, 2, 1, 2)", "resnet18"]),
}  # fmt: skip


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path: Path, mismatch: str) -> None:
    changes, parts = MISMATCHES[mismatch]
    _, model = detector("htc")
    sentence = refusal(save(tmp_path / "theirs.pth", {"state_dict": changed(their_state(model), **changes)}))
    for part in parts:
        assert part in sentence


def test_modulated_deformable_convolutions_are_refused(tmp_path: Path) -> None:
    _, model = bottleneck_detector(deformable_stages=[4])
    state = their_state(model)
    name = "backbone.layer4.0.conv2.conv_offset.bias"
    assert name in state
    assert name in refusal(save(tmp_path / "theirs.pth", {**state, name: torch.zeros(27)}))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"bbox_head.0.fc_cls.weight": torch.zeros(2), "rpn_head.rpn_conv.weight": torch.zeros(2)}, "MMDetection 1.x"),
        ({"model": {"proposal_generator.rpn_head.conv.weight": torch.zeros(2)}}, "Detectron2"),
        ({"conv1.weight": torch.zeros(2)}, "neither a checkpoint of this project nor"),
        ({"state_dict": {"a": 1}, "meta": {}}, "the keys state_dict, meta"),
        ({}, "an empty dict"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
    ],
)
def test_file_without_a_known_detector_is_refused(tmp_path: Path, content: Any, part: str) -> None:
    assert part in refusal(save(tmp_path / "odd.pth", content))


@pytest.mark.parametrize("variant", ["htc", "mask_rcnn"])
def test_names_translate_in_both_directions(variant: str) -> None:
    config, model = detector(variant)
    for name in model.state_dict():
        theirs = their_name(name, numbered_heads=config.model.num_stages > 1)
        assert theirs is not None
        assert our_name(theirs) == name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("roi_head.bbox_head.0.fc_reg.weight", ()),
        ("roi_head.bbox_head.0.fc_cls.weight", (1, 16)),
        ("roi_head.semantic_head.conv_logits.weight", (0, 8, 1, 1)),
        ("backbone.conv1.weight", (0, 3, 7, 7)),
        ("backbone.layer1.0.conv2.weight", (8, 0, 3, 3)),
        ("backbone.layer1.0.conv2.weight", (8,)),
        ("neck.fpn_convs.0.conv.weight", ()),
    ],
)
def test_weight_of_an_impossible_shape_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    state = their_state(detector("htc")[1])
    assert name in state
    refusal(save(tmp_path / "theirs.pth", {"state_dict": {**state, name: torch.zeros(shape)}}))


MODELS = {variant: their_state(detector(variant)[1], variant == "htc") for variant in ("htc", "mask_rcnn")}


@fuzz(30)
@given(variant=st.sampled_from(sorted(MODELS)), number=st.integers(0, 10_000), odd=st.none() | ODD_WEIGHTS)
def test_any_tensor_in_a_checkpoint_is_loaded_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, variant: str, number: int, odd: Tensor | None
) -> None:
    state = dict(MODELS[variant])
    name = sorted(state)[number % len(state)]
    if odd is None:
        del state[name]
    else:
        state[name] = odd
    path = save(tmp_path_factory.mktemp("fuzz") / "theirs.pth", {"state_dict": state})
    sentence = None
    try:
        load(path)
    except UserError as error:
        sentence = error.sentence
    except OmegaConfBaseException as error:
        sentence = explain(error, [])
    assert sentence is None or is_sentence(sentence)
