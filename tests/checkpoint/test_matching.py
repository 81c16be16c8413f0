"""Loading of weights into a model, completely or in part."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from htc.checkpoint.matching import load_weights
from htc.config.schema import CheckpointConfig, Config, DataConfig
from htc.convert import convert
from htc.data.dataset import CocoDataset, build_dataset
from htc.errors import UserError
from htc.models.detector import Detector
from htc.trained_model import load_trained_model, start_from
from tests.helpers.checkpoints import assert_same_tensors, imported_config, random_detector, save, their_state
from tests.helpers.tiny import tiny_detector

HTC = {"interleaved": True, "mask_flow": True, "semantic": True}


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_all_tensors_are_loaded() -> None:
    source, target = small(), small()
    load_weights(target, source.state_dict(), "checkpoint=x")
    assert_same_tensors(target.state_dict(), source.state_dict())


def test_message_lists_the_differences_and_counts_those_it_omits() -> None:
    given = {f"other.{i}": torch.zeros(1) for i in range(15)} | {
        "0.weight": torch.zeros(4, 2),
        "0.bias": torch.zeros(3),
    }
    with pytest.raises(UserError) as caught:
        load_weights(small(), given, "checkpoint=x")
    sentence = str(caught.value)
    assert sentence.startswith(
        "checkpoint=x does not fit the model: 4 missing (1.bias, 1.running_mean, 1.running_var, "
    )
    assert "15 unexpected (other.0, other.1, other.10" in sentence
    assert "and 5 more)" in sentence
    assert "1 of another shape (0.weight: [4, 2] instead of [3, 2])" in sentence
    assert "checkpoint.partial=true" in sentence


def test_batch_counters_may_be_missing_or_unexpected() -> None:
    target = small()
    state = {name: value for name, value in small().state_dict().items() if not name.endswith("num_batches_tracked")}
    load_weights(target, {**state, "7.num_batches_tracked": torch.tensor(3)}, "checkpoint=x")
    assert torch.equal(target.state_dict()["0.weight"], state["0.weight"])


def test_refused_file_does_not_change_the_model() -> None:
    target = small()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError):
        load_weights(target, {"0.weight": torch.ones(3, 2)}, "checkpoint=x")
    assert_same_tensors(target.state_dict(), before)


def test_partial_loading_loads_fitting_tensors_and_logs_the_others(caplog: pytest.LogCaptureFixture) -> None:
    target = small()
    bias = target.state_dict()["0.bias"].clone()
    given = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(4), "z": torch.ones(1)}
    load_weights(target, given, "checkpoint=x", partial=True)
    assert torch.equal(target.state_dict()["0.weight"], torch.ones(3, 2))
    assert torch.equal(target.state_dict()["0.bias"], bias)
    assert "loaded in part (1 of 7 tensors)" in caplog.text
    assert "0.bias: [4] instead of [3]" in caplog.text


def test_partial_loading_of_a_file_without_fitting_tensors_is_refused() -> None:
    with pytest.raises(UserError, match="nothing that fits"):
        load_weights(small(), {"0.weight": torch.ones(9, 9), "z": torch.ones(1)}, "checkpoint=x", partial=True)


@pytest.fixture(scope="module")
def shapes(tiny_shapes: DataConfig) -> CocoDataset:
    return build_dataset(tiny_shapes, train=True, semantic=False)


def fine_tuning(file: Path, *, partial: bool = False, **model: Any) -> Config:
    return replace(imported_config(**{**HTC, **model}), checkpoint=CheckpointConfig(str(file), partial))


def start(file: Path, dataset: CocoDataset, **options: Any) -> Detector:
    config = fine_tuning(file, **options)
    model = tiny_detector(config, seed=5, num_classes=len(dataset.category_ids))
    start_from(model, config, dataset)
    return model


def their_file(path: Path, num_classes: int, **model: Any) -> tuple[Path, dict[str, Tensor]]:
    """Write a checkpoint of MMDetection; return its path and its tensors under our names."""
    detector = random_detector(imported_config(**{**HTC, **model}), num_classes)
    return save(path, {"state_dict": their_state(detector)}), detector.state_dict()


def test_fine_tuning_starts_from_all_weights_of_the_same_network(tmp_path: Path, shapes: CocoDataset) -> None:
    path, state = their_file(tmp_path / "theirs.pth", len(shapes.category_ids))
    assert_same_tensors(start(path, shapes).state_dict(), state)
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    # The converted file has no category ids, so those of the data set are used if their number fits.
    assert_same_tensors(start(ours, shapes).state_dict(), state)


def test_weights_of_other_categories_are_refused_unless_loading_is_partial(tmp_path: Path, shapes: CocoDataset) -> None:
    path, state = their_file(tmp_path / "theirs.pth", len(shapes.category_ids))
    ours = convert({"checkpoint": str(path), "out": str(tmp_path / "ours.pt")}, [])
    content = torch.load(ours, weights_only=True)
    content["categories"]["ids"] = [category + 1 for category in shapes.category_ids]
    torch.save(content, ours)
    with pytest.raises(UserError, match="trained on other categories"):
        start(ours, shapes)
    assert_same_tensors(start(ours, shapes, partial=True).state_dict(), state)


def test_class_outputs_of_another_number_of_classes_are_refused_or_keep_their_initial_values(
    tmp_path: Path, shapes: CocoDataset, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = their_file(tmp_path / "theirs.pth", len(shapes.category_ids) + 2)
    with pytest.raises(UserError, match=r"roi_head\.bbox_head\.0\.fc_cls\.bias: \[\d+\] instead of"):
        start(path, shapes)
    fresh = tiny_detector(fine_tuning(path), seed=5, num_classes=len(shapes.category_ids)).state_dict()
    loaded = start(path, shapes, partial=True).state_dict()
    for name, value in loaded.items():
        by_class = ("box_heads" in name and "logits" in name) or ("mask_branch.heads" in name and "logits" in name)
        assert torch.equal(value, fresh[name] if by_class else state[name]), name
    assert "roi_head.mask_head.1.conv_logits.weight: [10, 8, 1, 1] instead of [8, 8, 1, 1]" in caplog.text


def test_partial_loading_of_another_network_loads_the_shared_tensors(tmp_path: Path, shapes: CocoDataset) -> None:
    path, state = their_file(tmp_path / "cascade.pth", 80, mask_flow=False, semantic=False, interleaved=False)
    loaded = start(path, shapes, partial=True).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if name.startswith("backbone."))
    assert torch.equal(loaded["cascade.box_heads.1.fc1.weight"], state["cascade.box_heads.1.fc1.weight"])


@pytest.mark.parametrize("head", ["bbox_head.retina_cls.weight", "head.fc.weight", "rpn_head.rpn_cls.weight"])
def test_backbone_of_any_mmdetection_network_can_be_loaded(tmp_path: Path, shapes: CocoDataset, head: str) -> None:
    """The heads are those of RetinaNet, of a classifier, and of a Faster R-CNN without masks."""
    state = their_state(random_detector(imported_config(**HTC)))
    body = {name: value for name, value in state.items() if name.startswith("backbone.")}
    path = save(tmp_path / "other.pth", {"state_dict": {**body, head: torch.zeros(5, 5)}})
    loaded = their_state(start(path, shapes, partial=True))
    assert_same_tensors({name: loaded[name] for name in body}, body)
    with pytest.raises(UserError):
        start(path, shapes)


def test_pixel_settings_that_differ_from_the_checkpoints_are_logged(
    tmp_path: Path, shapes: CocoDataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = their_state(random_detector(imported_config(**HTC), len(shapes.category_ids)))
    text = "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
    start(save(tmp_path / "theirs.pth", {"state_dict": state, "meta": {"config": text}}), shapes)
    assert "was trained with backbone.bgr=true backbone.pixel_std=[1.0,1.0,1.0], unlike this run" in caplog.text
    assert "inferred: model=htc" in caplog.text


@pytest.mark.parametrize("partial", ["maybe", "1", ""])
def test_partial_is_true_or_false(tmp_path: Path, partial: str) -> None:
    path, _ = their_file(tmp_path / "theirs.pth", 3)
    with pytest.raises(UserError, match=r"checkpoint\.partial="):
        load_trained_model({"checkpoint": str(path), "checkpoint.partial": partial}, [])


def test_checkpoint_without_some_tensors_is_loaded_only_partially(tmp_path: Path) -> None:
    path, state = their_file(tmp_path / "theirs.pth", 3)
    incomplete = their_state(load_trained_model({"checkpoint": str(path)}, []).model)
    del incomplete["rpn_head.rpn_reg.bias"]
    save(path, incomplete)
    with pytest.raises(UserError, match=r"1 missing \(rpn_head\.rpn_reg\.bias\)"):
        load_trained_model({"checkpoint": str(path)}, [])
    model = load_trained_model({"checkpoint": str(path), "checkpoint.partial": "true"}, []).model
    assert torch.equal(model.state_dict()["rpn.conv.weight"], state["rpn.conv.weight"])


@pytest.mark.parametrize("arguments", [{}, {"run": "a", "checkpoint": "b"}])
def test_exactly_one_of_run_and_checkpoint_must_be_given(arguments: dict[str, str]) -> None:
    with pytest.raises(UserError, match="give one of run=RUN_DIR and checkpoint=FILE"):
        load_trained_model(arguments, [])


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        load_trained_model({"checkpoint": str(tmp_path / "nowhere.pth")}, [])
    with pytest.raises(UserError, match="is not a folder"):
        load_trained_model({"run": str(tmp_path / "nowhere")}, [])
