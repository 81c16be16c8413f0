"""Conversion of checkpoints, and the commands on checkpoints of other frameworks as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from htc.checkpoint.safe_loading import load_tensors
from htc.config.schema import DataConfig
from htc.config.signature import to_plain
from htc.convert import convert
from htc.errors import UserError
from htc.evaluate import evaluate
from tests.helpers.checkpoints import assert_same_tensors, imported_config, random_detector, save, their_state
from tests.helpers.command import command
from tests.helpers.tiny import tiny_config, tiny_detector

HTC = {"interleaved": True, "mask_flow": True, "semantic": True}


def their_file(path: Path, num_classes: int = 3, **meta: Any) -> Path:
    model = random_detector(imported_config(**HTC), num_classes)
    return save(path, {"state_dict": their_state(model), "meta": meta})


def test_convert_goes_both_ways_as_a_command(tmp_path: Path) -> None:
    theirs = their_file(tmp_path / "theirs.pth", CLASSES=("a", "b", "c"))
    there = command("htc.convert", f"checkpoint={theirs}", f"out={tmp_path / 'ours.pt'}")
    assert there.returncode == 0, there.stderr
    assert "in the format of htc" in there.stdout
    assert "inferred: model=htc backbone=resnet18" in there.stderr
    back = command("htc.convert", f"checkpoint={tmp_path / 'ours.pt'}", f"out={tmp_path / 'back.pth'}")
    assert back.returncode == 0, back.stderr
    assert "in the format of mmdetection" in back.stdout
    one, other = (load_tensors(file, "checkpoint") for file in (theirs, tmp_path / "back.pth"))
    assert_same_tensors(one["state_dict"], other["state_dict"])
    assert other["meta"]["dataset_meta"]["classes"] == ("a", "b", "c")
    assert torch.load(tmp_path / "back.pth", weights_only=True)["meta"]["CLASSES"] == ("a", "b", "c")


def test_the_form_may_be_named(tmp_path: Path) -> None:
    theirs = their_file(tmp_path / "theirs.pth")
    modern = convert({"checkpoint": str(theirs), "out": str(tmp_path / "new.pth"), "to": "mmdetection"}, [])
    one, other = (load_tensors(file, "checkpoint")["state_dict"] for file in (theirs, modern))
    assert_same_tensors(one, other)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({}, "out= is missing"),
        ({"out": "there.pth"}, "exists already"),
        ({"out": "new.pth", "to": "onnx"}, "to=onnx is not one of htc, mmdetection"),
        ({"out": "new.pth", "checkpoint": "nowhere.pth"}, "is not a file"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, str], part: str) -> None:
    (tmp_path / "there.pth").touch()
    places = {key: value if key == "to" else str(tmp_path / value) for key, value in arguments.items()}
    with pytest.raises(UserError, match=part):
        convert({"checkpoint": str(their_file(tmp_path / "theirs.pth")), **places}, [])
    assert not (tmp_path / "new.pth").exists()


def test_a_part_of_a_checkpoint_is_not_converted(tmp_path: Path) -> None:
    theirs = their_file(tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="cannot be used in a conversion"):
        convert({"checkpoint": str(theirs), "out": str(tmp_path / "out.pt")}, ["checkpoint.partial=true"])


def test_group_norms_cannot_be_exported(tmp_path: Path) -> None:
    config = tiny_config(**HTC)
    categories = {"ids": [1, 2, 3], "names": ["a", "b", "c"]}
    model = tiny_detector(config).state_dict()
    ours = save(tmp_path / "ours.pt", {"model": model, "config": to_plain(config), "categories": categories, "step": 3})
    with pytest.raises(UserError, match=r"backbone\.norm=gn cannot be exported"):
        convert({"checkpoint": str(ours), "out": str(tmp_path / "out.pth")}, [])
    assert not (tmp_path / "out.pth").exists()


def test_predict_draws_what_a_checkpoint_of_mmdetection_finds(tmp_path: Path) -> None:
    text = "test_pipeline = [dict(type='Resize', scale=(128, 96))]"
    theirs = their_file(tmp_path / "theirs.pth", CLASSES=("a", "b", "c"), cfg=text)
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "one.png"), pixels)
    result = command(
        "htc.predict", f"checkpoint={theirs}", f"images={tmp_path / 'images'}", f"out={tmp_path / 'out'}",
        "score=0.1", "eval.score_threshold=0.01",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "inferred: model=htc" in result.stderr
    assert (tmp_path / "out" / "one.png").is_file()
    found = json.loads((tmp_path / "out" / "segm.json").read_text())
    assert found
    assert {each["category_id"] for each in found} <= {1, 2, 3}


def category_count(data: DataConfig) -> int:
    return len(json.loads((Path(data.root) / data.val.annotations).read_text())["categories"])


def test_evaluate_takes_a_checkpoint_of_mmdetection(tmp_path: Path, tiny_shapes: DataConfig) -> None:
    text = "test_pipeline = [dict(type='Resize', scale=(96, 64))]"
    theirs = their_file(tmp_path / "theirs.pth", category_count(tiny_shapes), cfg=text)
    arguments = {"checkpoint": str(theirs), "out": str(tmp_path / "out")}
    overrides = ["data.workers=0", "device=cpu", "eval.score_threshold=0.01"]
    results = evaluate(arguments, [f"data.root={tiny_shapes.root}", *overrides])
    assert results["images_evaluated"] == 4
    assert (tmp_path / "out" / "segm.json").is_file()
    with pytest.raises(UserError, match=r"data\.root has no value"):
        evaluate(arguments, overrides)


def test_evaluate_refuses_data_of_other_categories(tmp_path: Path, tiny_shapes: DataConfig) -> None:
    theirs = their_file(tmp_path / "theirs.pth", category_count(tiny_shapes) + 1)
    with pytest.raises(UserError, match="categories"):
        evaluate({"checkpoint": str(theirs)}, [f"data.root={tiny_shapes.root}", "device=cpu"])


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_file_that_would_run_code_ends_the_command_in_one_sentence(tmp_path: Path) -> None:
    evil = save(tmp_path / "evil.pth", {"state_dict": {}, "meta": Touch(tmp_path / "executed")})
    result = command("htc.predict", f"checkpoint={evil}", f"images={evil}", f"out={tmp_path / 'out'}")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: checkpoint={evil} was refused: unpickling it would run builtins.getattr")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "executed").exists()
