"""Annotation files of any content are read or refused in one sentence; no file outside of their folder is opened."""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htc.coco_truth import repair_ground_truth
from htc.config.schema import DataConfig, SplitConfig
from htc.data.check.summary import summary
from htc.data.coco.reader import read_annotations
from htc.data.coco.rle import valid_run_lengths
from htc.data.dataset import CocoDataset, SeededIndex
from htc.data.image_reading import read_image
from htc.errors import UserError
from tests.helpers.fuzzing import fuzz

SETTINGS = fuzz(300)
NAMES = ["a.png", "b/c.png", "../secret.png", "/etc/hostname", "b/../../secret.png", "", ".", "..", "a\0", "\ud800",
         "x" * 5000, "a\nb", "b", "secret.png"]  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 60), st.floats(), st.sampled_from([1e308, -1e308, 2**31, 2**63, 2**64, 10**400, 1e12, 0.5, True])
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(NAMES))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
POLYGON = st.lists(NUMBERS | SCALARS, max_size=10)
RUN_LENGTHS = st.fixed_dictionaries(
    {"size": st.just([20, 30]) | ANYTHING, "counts": st.lists(NUMBERS, max_size=6) | st.text(max_size=20) | ANYTHING}
)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "segmentation": st.lists(POLYGON, max_size=3) | RUN_LENGTHS | ANYTHING,
    "bbox": st.lists(NUMBERS, min_size=4, max_size=4) | ANYTHING,
    "file_name": st.sampled_from(NAMES) | ANYTHING,
}
VALID: dict[str, Any] = {
    "images": [{"id": k, "file_name": name, "height": 20, "width": 30} for k, name in ((1, "a.png"), (2, "b/c.png"))],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0,
         "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]]},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 5, 20], "area": 100, "iscrowd": 1,
         "segmentation": {"size": [20, 30], "counts": [0, 100, 500]}},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [0, 0, 5, 20], "area": 100,
         "segmentation": {"size": [20, 30], "counts": "0T3lb0"}},
    ],
    "categories": [{"id": 1, "name": "one"}, {"id": 3, "name": "three"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def root() -> Any:
    """Return a folder of images; next to it is a file that no annotation may reach."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "data" / "images" / "b").mkdir(parents=True)
        for name in ("data/images/a.png", "data/images/b/c.png", "secret.png", "data/secret.png"):
            cv2.imwrite(str(base / name), np.zeros((20, 30, 3), np.uint8))
        yield base / "data"


def read_everything(root: Path) -> None:
    """Do everything that the suite does with an annotation file; the only exception may be a UserError in one line."""
    file, split = root / "annotations.json", SplitConfig("images", "annotations.json", None)
    config = DataConfig(name="mine", root=str(root), train=split, val=split, short_side=20, long_side=30, workers=0)
    try:
        annotations, problems = read_annotations(file, root / "images")
        assert all(b"\n" not in problem.sentence.encode() for problem in problems)
        summary(annotations, Counter()).encode()
        # The rows without a fault must be valid, so every mask can be decoded.
        for image in range(min(len(annotations), 20)):
            assert annotations.image_path(image).resolve().is_relative_to((root / "images").resolve())
            if annotations.heights[image] * annotations.widths[image] < 1 << 22:
                for index in annotations.of_image(image):
                    annotations.mask(image, index)
        data = CocoDataset(config, split, train=True, semantic=True)
        for index in range(len(data)):
            data[SeededIndex(index, 5)]
        repair_ground_truth(json.loads(file.read_text()), str(file))
    except UserError as error:
        sentence = error.sentence
    else:
        return
    assert b"\n" not in sentence.encode()
    assert len(sentence) < 20_000


@SETTINGS
@given(values=st.data())
def test_changed_values_in_valid_annotations_are_read_or_refused(root: Path, values: st.DataObject) -> None:
    content = copy.deepcopy(VALID)
    for _ in range(values.draw(st.integers(1, 3))):
        row = values.draw(st.sampled_from([row for table in content.values() for row in table]))
        key = values.draw(st.sampled_from(sorted(row)))
        change = values.draw(st.sampled_from(["set", "remove", "copy"]))
        if change == "set":
            row[key] = values.draw(KEYS.get(key, SCALARS | ANYTHING))
        elif change == "remove":
            del row[key]
            if not row:
                break
        else:
            row[key] = values.draw(st.sampled_from(VALID["annotations"])).get(key, 0)
    (root / "annotations.json").write_text(json.dumps(content))
    read_everything(root)


@SETTINGS
@given(content=ANYTHING | st.dictionaries(st.sampled_from(["images", "annotations", "categories", "info"]), ANYTHING))
def test_any_json_is_read_or_refused(root: Path, content: Any) -> None:
    (root / "annotations.json").write_text(json.dumps(content))
    read_everything(root)


@SETTINGS
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 8))
def test_damaged_bytes_are_read_or_refused(root: Path, seed: int, edits: int) -> None:
    data, source = bytearray(json.dumps(VALID).encode()), random.Random(seed)
    for _ in range(edits):
        place = source.randrange(len(data) + 1)
        removed = source.choice([0, 1, source.randrange(1, 40)])
        inserted = source.choice([b"", bytes([source.randrange(256)]), b"[", b"{", b'"', b"1e999", b"NaN", b"\\u"])
        data[place : place + removed] = inserted
    (root / "annotations.json").write_bytes(data)
    read_everything(root)


@SETTINGS
@given(
    data=st.binary(max_size=60) | st.text("0123456789abcPQo`_^", max_size=40).map(str.encode),
    pixels=st.integers(1, 2000),
)
def test_run_lengths_are_valid_only_if_they_decode_to_exactly_their_pixels(data: bytes, pixels: int) -> None:
    valid = valid_run_lengths(np.frombuffer(data, np.uint8), np.array([[0, len(data)]]), np.array([pixels]))[0]
    assert valid == (sum(counts(data)) == pixels if counts(data) is not None else False)


def counts(data: bytes) -> Any:
    """Decode a compressed RLE character by character, as pycocotools' rleFrString does; None if it is invalid."""
    runs: list[int] = []
    place = 0
    while place < len(data):
        value, k, more = 0, 0, True
        while more:
            if place == len(data) or not 48 <= data[place] <= 111 or k == 7:
                return None
            bits = data[place] - 48
            value |= (bits & 31) << (5 * k)
            more, place, k = bool(bits & 32), place + 1, k + 1
            if not more and bits & 16:
                value -= 1 << (5 * k)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return None
    return runs or None


@SETTINGS
@given(seed=st.integers(0, 2**32), form=st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".tiff"]))
def test_damaged_images_are_read_or_refused_by_name(root: Path, seed: int, form: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    data, source = bytearray(cv2.imencode(form, picture)[1].tobytes()), random.Random(seed)
    for _ in range(source.randrange(1, 6)):
        data[source.randrange(len(data))] = source.randrange(256)
    path = root / "damaged"
    path.write_bytes(data[: source.randrange(1, len(data) + 1)])
    try:
        read_image(path)
    except UserError as error:
        sentence = error.sentence
    else:
        return
    assert str(path) in sentence


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace-like auditing needs Linux paths")
def test_no_file_outside_of_the_folder_is_opened(root: Path) -> None:
    opened: list[str] = []
    active = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
            opened.append(os.fspath(arguments[0]))

    sys.addaudithook(audit)
    for name in NAMES:
        content = copy.deepcopy(VALID)
        content["images"][0]["file_name"] = name
        (root / "annotations.json").write_text(json.dumps(content))
        read_everything(root)
    active[0] = False
    assert any(path.endswith("annotations.json") for path in opened)
    inside = os.path.realpath(root)
    assert [path for path in opened if "secret" in path or path.startswith("/etc")
            or not os.path.realpath(path).startswith(inside)] == []  # fmt: skip
