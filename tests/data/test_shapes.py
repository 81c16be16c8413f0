"""The built-in data are reproducible, and their annotations are correct."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from htc.config.schema import DataConfig, ShapesConfig, ShapesDifficulty
from htc.data.dataset import build_dataset
from htc.data.shapes.generate import ensure_shapes
from htc.data.shapes.scene import DIFFICULTIES, STUFF, THINGS
from htc.errors import UserError


def small(root: Path, **changes: Any) -> DataConfig:
    settings: dict[str, Any] = {"train_images": 3, "val_images": 2, "image_size": 96, **changes}
    return DataConfig(name="shapes", root=str(root), semantic_classes=16, workers=0, shapes=ShapesConfig(**settings))


def contents(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def generate(root: Path) -> str:
    return ensure_shapes(small(root)).root


def stuff_map(shapes: DataConfig, image: dict[str, Any]) -> np.ndarray:
    labels = cv2.imread(f"{shapes.root}/{shapes.train.stuff}/{Path(image['file_name']).stem}.png", -1)
    assert labels is not None
    return np.asarray(labels)


@pytest.fixture(scope="module")
def truth(shapes: DataConfig) -> COCO:
    return COCO(f"{shapes.root}/{shapes.train.annotations}")


def test_the_same_settings_give_the_same_files(tmp_path: Path) -> None:
    first, second = generate(tmp_path / "a"), generate(tmp_path / "b")
    assert contents(first) == contents(second) and len(contents(first)) == 2 * 5 + 2


def test_an_image_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    few = contents(generate(tmp_path))
    many = contents(ensure_shapes(small(tmp_path, train_images=5)).root)
    other = contents(ensure_shapes(small(tmp_path, seed=1)).root)
    images = [name for name in few if name.endswith(("jpg", "png"))]
    assert len(images) == 10 and all(few[name] == many[name] for name in images)
    assert all(few[name] != other[name] for name in images if name.endswith("jpg"))
    assert len({few[name] for name in images}) == 10, "training and validation images differ"


def test_hard_data_stand_beside_the_standard_ones(tmp_path: Path) -> None:
    standard, hard = small(tmp_path), small(tmp_path, difficulty=ShapesDifficulty.hard)
    explicit = small(tmp_path, difficulty=ShapesDifficulty.standard)
    folders = [ensure_shapes(each).root for each in (standard, hard, explicit)]
    assert folders[0] == folders[2] != folders[1]
    assert contents(folders[0]).keys() == contents(folders[1]).keys()


def test_hard_things_are_never_on_a_background_where_they_are_texture(tmp_path: Path) -> None:
    shapes = ensure_shapes(small(tmp_path, train_images=40, difficulty=ShapesDifficulty.hard))
    truth = COCO(f"{shapes.root}/{shapes.train.annotations}")
    texture_on = DIFFICULTIES[ShapesDifficulty.hard].texture_on
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    checked = 0
    for image in truth.dataset["images"]:
        labels = stuff_map(shapes, image)
        for annotation in truth.loadAnns(truth.getAnnIds(imgIds=[image["id"]])):
            name = names[annotation["category_id"]]
            if name not in texture_on:
                continue
            mask = truth.annToMask(annotation).astype(np.uint8)
            around = (cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0) & (labels >= len(THINGS)) & (labels < 255)
            grounds = [STUFF[label - len(THINGS)] for label in labels[around]]
            share = np.mean([ground in texture_on[name] for ground in grounds]) if grounds else 0.0
            assert share < 0.75, (image["id"], name)
            checked += 1
    assert checked > 15


@pytest.mark.parametrize("difficulty", list(ShapesDifficulty))
def test_every_difficulty_has_all_things(tmp_path: Path, difficulty: ShapesDifficulty) -> None:
    shapes = ensure_shapes(small(tmp_path, train_images=80, difficulty=difficulty))
    truth = COCO(f"{shapes.root}/{shapes.train.annotations}")
    counts = [len(truth.getAnnIds(catIds=[category])) for category in truth.getCatIds()]
    assert min(counts) >= 5 and len(counts) == len(THINGS)


def test_existing_data_are_not_generated_again(tmp_path: Path) -> None:
    folder = generate(tmp_path)
    ready = ensure_shapes(small(tmp_path))
    assert ensure_shapes(ready) == ready, "a configuration that points to the data is returned unchanged"
    stamps = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
    assert generate(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")} == stamps


def test_processes_can_generate_the_same_data_at_the_same_time(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.map(generate, [tmp_path] * 4, chunksize=1)
    assert len(set(folders)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(folders[0]).name], "no other files remain next to it"
    assert contents(folders[0]) == contents(generate(tmp_path / "alone"))


def test_a_failed_generation_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot be written to data\.root"):
        generate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'train_images': 0"):
        ensure_shapes(small(tmp_path, train_images=0))


@pytest.mark.parametrize("split", ["train_images", "val_images"])
def test_more_images_than_there_are_ids_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    # Without the refusal, writing the first image would fail.
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(UserError, match="must be 1 to 1000000"):
        ensure_shapes(small(tmp_path, **{split: 1_000_001}))
    assert list(tmp_path.iterdir()) == []


def test_annotations_are_valid_for_pycocotools_and_have_tight_boxes_and_areas(truth: COCO) -> None:
    kinds = set()
    for annotation in truth.dataset["annotations"]:
        mask = truth.annToMask(annotation)
        assert mask.sum() == annotation["area"] >= 24
        assert list(cv2.boundingRect(mask)) == annotation["bbox"]
        kinds.add((type(annotation["segmentation"]), annotation["iscrowd"]))
    assert kinds == {(list, 0), (dict, 0), (dict, 1)}
    assert [category["id"] for category in truth.dataset["categories"]] == [1, 2, 3, 5, 7, 8, 11, 13]


def test_visible_masks_of_objects_never_overlap(truth: COCO) -> None:
    for image_id in truth.getImgIds():
        objects = [truth.annToMask(a) for a in truth.imgToAnns[image_id] if not a["iscrowd"]]
        assert len(objects) <= 9
        if objects:
            assert np.sum(objects, axis=0).max() == 1


def test_stuff_maps_contain_the_labels_of_things_and_then_those_of_backgrounds(truth: COCO, shapes: DataConfig) -> None:
    labels = {category: label for label, category in enumerate(truth.getCatIds())}
    seen: set[int] = set()
    for image_id, image in truth.imgs.items():
        stuff = stuff_map(shapes, image)
        assert stuff.shape == (image["height"], image["width"])
        shown = np.zeros_like(stuff)
        for annotation in truth.imgToAnns[image_id]:
            inside = truth.annToMask(annotation) > 0
            shown[inside] = 1
            if not annotation["iscrowd"]:
                assert (stuff[inside] == labels[annotation["category_id"]]).all()
        background = stuff[shown == 0]
        assert (background >= len(THINGS)).all()
        seen.update(np.unique(background).tolist())
    assert seen == {*range(len(THINGS), len(THINGS) + len(STUFF)), 255}
    assert max(seen - {255}) < 16


def test_discs_and_squares_are_not_things_on_their_own_texture(truth: COCO, shapes: DataConfig) -> None:
    for image_id, image in truth.imgs.items():
        stuff = stuff_map(shapes, image)
        backgrounds = set(np.unique(stuff[stuff >= len(THINGS)]).tolist()) - {255}
        names = {truth.cats[a["category_id"]]["name"] for a in truth.imgToAnns[image_id]}
        if backgrounds == {len(THINGS) + STUFF.index("dots")}:
            assert "disc" not in names
        if backgrounds == {len(THINGS) + STUFF.index("checker")}:
            assert "square" not in names


def test_objects_come_in_all_classes_and_mostly_in_learnable_sizes(truth: COCO) -> None:
    objects = [a for a in truth.dataset["annotations"] if not a["iscrowd"]]
    assert 3 <= len(objects) / len(truth.imgs) <= 9
    assert {a["category_id"] for a in objects} == set(truth.getCatIds())
    sides = np.array([max(a["bbox"][2:]) for a in objects])
    assert ((sides >= 20) & (sides <= 90)).mean() > 0.7
    areas = np.array([a["area"] for a in objects])
    assert (areas < 32**2).any() and ((areas > 32**2) & (areas < 96**2)).any()


def test_build_dataset_generates_and_reads_the_data(tmp_path: Path) -> None:
    config = dataclasses.replace(small(tmp_path), short_side=96, long_side=128)
    data = build_dataset(config, train=True, semantic=True)
    sample = data[0]
    assert sample.targets is not None and sample.targets.semantic is not None
    assert sample.targets.semantic.shape == sample.image.shape[1:]
    assert len(build_dataset(config, train=False, semantic=False)) == 2
    assert data.category_names == THINGS and torch.is_tensor(sample.image)
