"""Checkpoints of this project with any content: each is a model, or is refused with a message about the file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from htc.config.messages import explain
from htc.config.signature import to_plain
from htc.data.image_files import ImageFile, listed_images, picture_files
from htc.errors import UserError
from htc.structures import Detections
from htc.trained_model import load_trained_model
from tests.helpers.fuzzing import ANYTHING, damage, fuzz, is_sentence
from tests.helpers.tiny import NUM_CLASSES, tiny_config, tiny_detector, tiny_image


def content() -> dict[str, Any]:
    """Return the part of a tiny run's checkpoint that describes the trained model."""
    config = tiny_config()
    return {
        "model": tiny_detector(config).state_dict(),
        "ema": None,
        "config": to_plain(config),
        "categories": {"ids": [1, 3, 4], "names": ["one", "three", "four"]},
        "step": 6,
    }


SOUND = content()
WEIGHTS = sorted(SOUND["model"])


def outcome(state: Any, path: Path) -> str | None:
    """Return the message that refuses a file of this content; None if it is a model."""
    torch.save(state, path)
    try:
        trained = load_trained_model({"checkpoint": str(path)}, [])
    except UserError as error:
        return error.sentence
    except OmegaConfBaseException as error:
        return explain(error, [])
    assert len(trained.category_names) == NUM_CLASSES
    assert trained.step >= 0
    return None


def predicted(path: Path) -> Detections:
    trained = load_trained_model({"checkpoint": str(path)}, [])
    return trained.model.eval().predict([tiny_image()], [(64, 96)], trained.config.eval)[0]


def test_sound_checkpoint_is_a_model_that_predicts(tmp_path: Path) -> None:
    assert outcome(SOUND, tmp_path / "sound.pt") is None
    assert predicted(tmp_path / "sound.pt").boxes.shape[-1] == 4


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("categories", None),
        ("categories", {"ids": [1, 3], "names": ["one", "three", "four"]}),
        ("categories", {"ids": [1, 1, 4], "names": ["one", "three", "four"]}),
        ("categories", {"ids": None, "names": [1, 2, 3]}),
        ("categories", {"names": ["one", "three", "four"]}),
        ("config", [1]),
        ("ema", 3),
        ("model", {"backbone": 3}),
        ("step", "six"),
        ("step", None),
        ("unused", [torch.ones(1)]),
    ],
)
def test_entry_of_a_wrong_kind_is_named(tmp_path: Path, entry: str, value: Any) -> None:
    sentence = outcome({**SOUND, entry: value}, tmp_path / "wrong.pt")
    assert sentence is not None
    assert f"wrong.pt is damaged, or not a checkpoint of this project: its `{entry}` is not" in sentence


def test_network_too_large_for_memory_is_refused_before_it_is_built(tmp_path: Path) -> None:
    state = copy.deepcopy(SOUND)
    state["config"]["model"]["fc_channels"] = 2**16
    sentence = outcome(state, tmp_path / "huge.pt")
    assert sentence is not None
    assert "does not fit the model" in sentence


@pytest.mark.parametrize("entry", WEIGHTS[:1] + WEIGHTS[-1:])
@pytest.mark.parametrize("form", ["sparse", "complex", "meta"])
def test_tensor_in_another_form_is_refused(tmp_path: Path, entry: str, form: str) -> None:
    state = copy.deepcopy(SOUND)
    tensor = state["model"][entry].float()
    state["model"][entry] = {
        "sparse": tensor.to_sparse(), "complex": tensor.to(torch.complex64), "meta": tensor.to("meta")
    }[form]  # fmt: skip
    sentence = outcome(state, tmp_path / "form.pt")
    assert sentence is not None
    assert f"{entry} in another form than plain numbers" in sentence


@fuzz(40)
@given(path=st.lists(st.integers(0, 400), max_size=4), value=ANYTHING)
def test_any_content_is_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, path: list[int], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    state = copy.deepcopy(SOUND)
    if path:
        damage(state, path, value)
    else:
        state = value
    sentence = outcome(state, folder / "any.pt")
    assert sentence is None or is_sentence(sentence)
    assert [file.name for file in folder.iterdir()] == ["any.pt"]


@fuzz(40)
@given(key=st.sampled_from(sorted(SOUND["config"])), path=st.lists(st.integers(0, 50), max_size=3), value=ANYTHING)
def test_any_recorded_configuration_is_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, key: str, path: list[int], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    state = copy.deepcopy(SOUND)
    if path and isinstance(state["config"][key], dict):
        damage(state["config"][key], path, value)
    else:
        state["config"][key] = value
    sentence = outcome(state, folder / "any.pt")
    assert sentence is None or is_sentence(sentence)


def images_of(folder: Path, *names: str) -> list[ImageFile]:
    return [ImageFile(number, name, folder / name) for number, name in enumerate(names, start=7)]


def test_images_of_one_name_have_a_picture_each(tmp_path: Path) -> None:
    def names(*images: str) -> list[str]:
        return [path.name for path in picture_files(images_of(tmp_path, *images), tmp_path / "out")]

    assert names("a.png", "b.jpg") == ["a.png", "b.png"]
    assert names("a.jpg", "a.png", "b.jpg") == ["a.jpg.png", "a.png.png", "b.jpg.png"]
    assert names("one/a.jpg", "two/a.jpg") == ["7_a.jpg.png", "8_a.jpg.png"]


def test_picture_that_would_replace_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png would replace an image: choose an out="):
        picture_files(images_of(tmp_path, "a.png"), tmp_path / "sub" / "..")


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([{"id": "1", "file_name": "a.jpg"}], "without a whole number as its id"),
        ([{"id": 1}], "without a file_name"),
        ([7], "without a file_name"),
        ([], "lists no image"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "a.jpg"}], "two images with the id 1"),
        (
            [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
            r"b\.jpg, listed in .*missing \(1 in total",
        ),
    ],
)
def test_list_of_images_that_cannot_be_predicted_is_refused(tmp_path: Path, images: list[Any], sentence: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "list.json").write_text(json.dumps({"images": images}))
    with pytest.raises(UserError, match=sentence):
        listed_images(tmp_path / "list.json", tmp_path)
