"""Faulty annotations and files are refused by name before training; flaws are repaired and counted."""

from __future__ import annotations

import dataclasses
import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from htc.config.schema import SplitConfig
from htc.data.coco.problems import Problem
from htc.data.coco.reader import load_annotations, read_annotations
from htc.data.coco.rle import valid_run_lengths
from htc.data.dataset import CocoDataset
from htc.data.splits import check_splits
from htc.errors import UserError
from htc.evaluation.coco_metrics import coco_metrics
from tests.helpers.annotation_faults import FAULTS, REPAIRS, Change, drop, first

if TYPE_CHECKING:
    from tests.helpers.hand_made import Folder


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_refused_in_one_sentence_with_file_and_id(folder: Folder, name: str) -> None:
    change, sentence = FAULTS[name]
    change(folder.content)
    folder.write()
    with pytest.raises(UserError, match=sentence) as caught:
        load_annotations(folder.file, folder.root / "images")
    assert str(folder.file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_listed_and_the_refusal_counts_them(folder: Folder) -> None:
    for annotation in folder.content["annotations"][:3]:
        annotation["category_id"] = 5
    folder.content["images"][0]["height"] = -1
    folder.write()
    annotations, problems = read_annotations(folder.file, folder.root / "images")
    assert [problem.kind for problem in problems] == ["size", "unknown category id"] + ["unknown category id"] * 2
    assert annotations.image_ids.tolist() == [3, 7, 12]
    with pytest.raises(UserError, match=r"\(3 more: python -m htc\.data\.check lists them\)"):
        load_annotations(folder.file, folder.root / "images")


def test_annotations_of_a_refused_image_are_not_reported_as_faults(folder: Folder) -> None:
    folder.content["images"][1]["height"] = 0
    folder.write()
    assert [problem.kind for problem in read_annotations(folder.file, folder.root)[1]] == ["size"]


@pytest.mark.parametrize("name", REPAIRS)
def test_flaw_is_dropped_or_clipped_and_counted_in_the_log(
    folder: Folder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, flaw, kept = REPAIRS[name]
    before = load_annotations(folder.file, folder.root / "images").flaw_counts().get(flaw, 0)
    change(folder.content)
    folder.write()
    caplog.set_level(logging.INFO)
    data = CocoDataset(dataclasses.replace(folder.config, skip_empty=False), folder.config.train, train=True,
                       semantic=False)  # fmt: skip
    assert data.annotations.flaw_counts()[flaw] == before + 1
    assert flaw.counted(before + 1) in caplog.text
    targets = data[data.image_ids.index(40)].targets
    assert targets is not None and len(targets.boxes) == kept
    assert (targets.boxes >= 0).all() and (targets.boxes <= torch.tensor([200, 150, 200, 150])).all()


def test_floats_with_integer_values_are_read_as_integers(folder: Folder) -> None:
    expected = load_annotations(folder.file, folder.root)
    for table, keys in (("images", ("id", "height", "width")), ("annotations", ("id", "image_id", "category_id"))):
        for row in folder.content[table]:
            row |= {key: float(row[key]) for key in keys}
    folder.write()
    found = load_annotations(folder.file, folder.root)
    for name in ("image_ids", "heights", "ids", "labels", "boxes", "coordinates", "rle_bytes", "usable"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("separator", ["", "\n\n   ", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_layout_and_unicode_encoding_of_the_json_is_read(folder: Folder, separator: str, encoding: str) -> None:
    folder.content["categories"][0]["name"] = "Flasche ß 瓶"
    text = json.dumps(folder.content, ensure_ascii=False, indent=separator or None)
    folder.file.write_text(text + separator, encoding=encoding)
    assert load_annotations(folder.file, folder.root).category_names == ["bicycle", "train", "Flasche ß 瓶"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_evaluation_reads_the_encodings_that_training_reads(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    folder.content["categories"][0]["name"] = "Flasche ß 瓶"
    folder.file.write_text(json.dumps(folder.content, ensure_ascii=False), encoding=encoding)
    # `open` uses another default encoding if the locale is not UTF-8.
    monkeypatch.setattr("builtins.open", partial(open, encoding="latin-1"))
    metrics = coco_metrics(folder.file, [], [], [3, 7, 40])
    assert set(metrics.per_category["segm"]) == {"bicycle", "train", "Flasche ß 瓶"}


def test_annotation_file_that_is_damaged_during_training_is_named(folder: Folder) -> None:
    folder.file.write_text("{")
    with pytest.raises(UserError, match=r"annotations\.json cannot be read .* Write it again"):
        coco_metrics(folder.file, [], [], [])


@pytest.mark.parametrize("cut", [1, 20, 300, 1000])
def test_truncated_annotation_file_is_refused_as_invalid_json(folder: Folder, cut: int) -> None:
    folder.file.write_text(folder.file.read_text()[:-cut])
    with pytest.raises(UserError, match=r"is not valid JSON .* at character"):
        load_annotations(folder.file, folder.root)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"images": ' + "[" * 100_000])
def test_deeply_nested_json_is_refused(folder: Folder, text: str) -> None:
    folder.file.write_text(text)
    with pytest.raises(UserError, match="nested too deeply"):
        load_annotations(folder.file, folder.root)


def test_text_after_the_end_and_a_table_given_twice_are_refused(folder: Folder) -> None:
    text = json.dumps(folder.content)
    folder.file.write_text(text + "}")
    with pytest.raises(UserError, match="more text after the end"):
        load_annotations(folder.file, folder.root)
    folder.file.write_text('{"images": [], ' + text[1:])
    with pytest.raises(UserError, match="holds `images` twice"):
        load_annotations(folder.file, folder.root)


def test_values_longer_than_the_read_window_and_numbers_at_its_edge_are_read_completely(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_annotations(folder.file, folder.root)
    for size in (1, 2, 7, 64):
        monkeypatch.setattr("htc.data.coco.json_stream.CHUNK", size)
        found = load_annotations(folder.file, folder.root)
        np.testing.assert_array_equal(found.coordinates, expected.coordinates)
        np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_run_lengths_are_valid_only_if_they_cover_their_image_exactly() -> None:
    random = np.random.default_rng(0)
    strings, pixels = [], []
    for _ in range(300):
        height, width = random.integers(1, 60, 2)
        mask = (random.random((height, width)) < random.choice([0, 0.1, 0.5, 1])).astype(np.uint8)
        strings.append(mask_utils.encode(np.asfortranarray(mask))["counts"])
        pixels.append(height * width)

    def valid(strings: list[bytes], pixels: list[int]) -> np.ndarray:
        ends = np.cumsum([len(string) for string in strings])
        ranges = np.stack([ends - [len(string) for string in strings], ends], axis=1)
        return valid_run_lengths(np.frombuffer(b"".join(strings), np.uint8), ranges, np.array(pixels))

    assert valid(strings, pixels).all()
    assert not valid(strings, [n + 1 for n in pixels]).any()
    assert not valid([string[:-1] for string in strings], pixels).any()
    assert not valid([string + b"1" for string in strings], pixels).any()
    assert not valid([b"", b"0", b"o", b"oooooooooo0", b"\xff"], [4] * 5).any()


def splits(folder: Folder, change: Change, names: tuple[str, str] = ("images", "images")) -> list[CocoDataset]:
    """Return the folder's training split and a validation split with a changed copy of the annotations.

    Args:
        folder: The data set.
        change: Changes the content of the validation split's annotations.
        names: Image folders of the training and the validation split.
    """
    content = json.loads(json.dumps(folder.content))
    change(content)
    (folder.root / "val.json").write_text(json.dumps(content))
    train = CocoDataset(folder.config, folder.config.train, train=True, semantic=False)
    val = SplitConfig(names[1], "val.json")
    return [train, CocoDataset(folder.config, val, train=False, semantic=False)]


def test_splits_of_two_files_that_share_an_image_are_refused(folder: Folder) -> None:
    with pytest.raises(UserError, match=r"3\.png is in training .* and in validation"):
        check_splits(*splits(folder, drop(7, 40, 12)))


def test_the_same_image_copied_into_the_other_folder_is_found_by_its_content(folder: Folder) -> None:
    other = folder.root / "other"
    other.mkdir()
    for name in ("3.png", "7.png"):
        (other / name).write_bytes((folder.root / "images" / name).read_bytes())
    data = splits(folder, drop(12, 40), ("images", "other"))
    with pytest.raises(UserError, match="which are the same image"):
        check_splits(*data)
    for name, size in (("3.png", (100, 120, 3)), ("7.png", (120, 90, 3))):
        cv2.imwrite(str(other / name), np.zeros(size, np.uint8))
    check_splits(*data)


def test_one_annotation_file_for_both_splits_is_accepted_with_a_warning(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    data = [CocoDataset(folder.config, folder.config.train, train=train, semantic=False) for train in (True, False)]
    check_splits(*data)
    assert "has memorised the images" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content["categories"].append({"id": 9, "name": "boat"}), "category 9 is missing in .* 'boat'"),
        (first("categories", name="jar"), "category 44 is 'bottle' in .* and 'jar' in"),
    ],
)
def test_categories_that_differ_between_splits_are_refused(folder: Folder, change: Change, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_splits(*splits(folder, change))


def test_an_empty_split_is_refused(folder: Folder) -> None:
    drop(3, 7, 12, 40)(folder.content)
    folder.write()
    with pytest.raises(UserError, match="leaves no image to use"):
        CocoDataset(folder.config, folder.config.val, train=False, semantic=False)


def test_a_missing_folder_of_images_is_named(folder: Folder) -> None:
    with pytest.raises(UserError, match="absent is not a folder that can be listed"):
        CocoDataset(folder.config, SplitConfig("absent", "annotations.json"), train=True, semantic=False)


@pytest.mark.parametrize(
    "change",
    [
        first("annotations", iscrowd=...),
        first("annotations", segmentation=...),
        first("annotations", segmentation=[[1, 2, 3, 4]]),
        first("annotations", segmentation=[[1, 2], [10, 10, 40, 10, 40, 30, 10, 30]]),
        first("annotations", id=0),
        first("annotations", segmentation=[[1, 1, 1e12, 1, 9, 9]]),
    ],
)
def test_annotations_that_training_repairs_do_not_stop_the_evaluation(folder: Folder, change: Change) -> None:
    change(folder.content)
    folder.write()
    load_annotations(folder.file, folder.root)
    results: list[dict[str, Any]] = []
    for row in folder.content["annotations"]:
        if row["image_id"] in (40, 7) and row.get("segmentation"):
            found = {"image_id": row["image_id"], "category_id": row["category_id"], "score": 0.9}
            results.append(found | {"bbox": row["bbox"]})
    metrics = coco_metrics(folder.file, results, [], [40, 7])
    assert metrics.bbox["AP50"] == pytest.approx(1)
    assert metrics.segm["AP50"] == 0


def kinds(problems: list[Problem]) -> set[str]:
    return {problem.kind for problem in problems}


def test_real_annotations_have_no_faults(coco_tiny: Any) -> None:
    root = Path(coco_tiny.root)
    for split in (coco_tiny.train, coco_tiny.val):
        annotations, problems = read_annotations(root / split.annotations, root / split.images)
        assert kinds(problems) == set()
        assert len(annotations) == 80
