"""A data set in COCO layout is read as its annotations say."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from htc.config.schema import DataConfig, OnBadImage
from htc.data.dataset import CocoDataset, SeededIndex, build_dataset
from htc.data.image_reading import UnreadableImageError, read_image
from htc.data.transforms import network_size
from htc.errors import UserError
from htc.structures import Sample, Targets

if TYPE_CHECKING:
    from tests.helpers.hand_made import Folder


def dataset(folder: Folder, *, train: bool = True, semantic: bool = False, **changes: object) -> CocoDataset:
    config = dataclasses.replace(folder.config, **changes)  # type: ignore[arg-type]
    return CocoDataset(config, config.train, train=train, semantic=semantic)


def targets_of(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def test_category_ids_with_gaps_become_contiguous_labels_by_ascending_id(folder: Folder) -> None:
    data = dataset(folder)
    assert data.category_ids == [2, 7, 44]
    assert data.category_names == ["bicycle", "train", "bottle"]
    assert targets_of(data[data.image_ids.index(3)]).labels.tolist() == [2, 0, 1]


def test_training_leaves_out_images_without_a_usable_object_and_validation_keeps_all(folder: Folder) -> None:
    assert dataset(folder).image_ids == [3, 7, 40]
    assert dataset(folder, skip_empty=False).image_ids == [3, 7, 12, 40]
    assert dataset(folder, train=False).image_ids == [3, 7, 12, 40]


def test_degenerate_annotations_and_crowds_are_not_targets_but_their_image_can_be_read(folder: Folder) -> None:
    data = dataset(folder, skip_empty=False)
    empty = targets_of(data[data.image_ids.index(12)])
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,) and empty.masks.shape == (0, 150, 150)
    assert len(targets_of(data[data.image_ids.index(3)]).labels) == 3


def test_log_counts_annotations_that_training_does_not_use(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset(folder)
    assert "less than a pixel high or wide: 2, not used in training" in caplog.text
    assert "a box outside of the image: 1, not used in training" in caplog.text
    assert "or RLE): 1, not used in training" in caplog.text


def test_masks_of_polygons_and_of_both_kinds_of_rle_equal_pycocotools(folder: Folder) -> None:
    data, truth = dataset(folder), COCO(str(folder.file))
    for position, image_id in enumerate(data.image_ids):
        masks = targets_of(data[position]).masks.numpy()
        expected = [truth.annToMask(a) for a in truth.imgToAnns[image_id] if not a["iscrowd"]]
        assert len(masks) == len(expected) > 0
        for mask, original in zip(masks, expected, strict=True):
            assert original.any()
            np.testing.assert_array_equal(mask, cv2.resize(original, mask.shape[::-1], interpolation=cv2.INTER_NEAREST))


def test_boxes_follow_the_resized_image_and_stay_inside(folder: Folder) -> None:
    data = dataset(folder)
    sample = data[data.image_ids.index(3)]
    assert sample.image.shape == (3, 150, 180) and sample.image.dtype == torch.uint8
    assert sample.original_size == (100, 120)
    expected = torch.tensor([[10.5, 5, 70.5, 55], [70, 40, 90, 70], [60, 10, 65, 16]]) * 1.5
    torch.testing.assert_close(targets_of(sample).boxes, expected)


def test_a_box_that_reaches_out_of_the_image_is_clipped(folder: Folder) -> None:
    folder.content["annotations"][0]["bbox"] = [60, 50, 50, 50]
    folder.write()
    data = dataset(folder)
    assert targets_of(data[data.image_ids.index(40)]).boxes.tolist() == [[150, 125, 200, 150]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((427, 640), (800, 1199)), ((200, 640), (417, 1333))],
)
def test_network_size_is_that_of_the_papers_1333_by_800(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(*size, 800, 1333) == expected


def test_colors_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 4, 3), (0, 0, 255), np.uint8))
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_annotated_size_decides_whether_the_exif_rotation_is_applied(tmp_path: Path) -> None:
    """The EXIF orientation is 6: the image is stored as 20 x 30 (height x width) and shown as 30 x 20."""
    encoded = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    entry = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    body = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entry
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + encoded[2:])
    assert read_image(path).shape == (30, 20, 3)
    assert read_image(path, (30, 20)).shape == (30, 20, 3)
    assert read_image(path, (20, 30)).shape == (20, 30, 3)
    with pytest.raises(UserError, match="is not 20 px high and 31 px wide"):
        read_image(path, (20, 31))


def test_flip_moves_image_boxes_masks_and_semantic_map_alike(folder: Folder) -> None:
    kept = dataset(folder, semantic=True, flip=0.0)
    flipped = dataset(folder, semantic=True, flip=1.0)
    for position in range(len(kept)):
        a, b = kept[SeededIndex(position, 5)], flipped[SeededIndex(position, 5)]
        ta, tb = targets_of(a), targets_of(b)
        assert torch.equal(a.image.flip(-1), b.image) and not torch.equal(a.image, b.image)
        assert torch.equal(ta.masks.flip(-1), tb.masks) and torch.equal(ta.labels, tb.labels)
        assert ta.semantic is not None and tb.semantic is not None and torch.equal(ta.semantic.flip(-1), tb.semantic)
        width = a.image.shape[-1]
        torch.testing.assert_close(tb.boxes[:, 0], width - ta.boxes[:, 2])
        torch.testing.assert_close(tb.boxes[:, 2], width - ta.boxes[:, 0])
        for box, mask in zip(tb.boxes, tb.masks, strict=True):
            columns = mask.any(0).nonzero()
            assert box[0] - 1.5 <= columns.min() and columns.max() <= box[2] + 1.5


def test_the_seed_decides_the_flip_and_half_of_the_seeds_flip(folder: Folder) -> None:
    data = dataset(folder)
    plain = data[0].image
    flips = []
    for seed in range(60):
        first, again = data[SeededIndex(0, seed)].image, data[SeededIndex(0, seed)].image
        assert torch.equal(first, again)
        flips.append(not torch.equal(first, plain))
    assert 15 < sum(flips) < 45


def test_crowded_limit_keeps_a_random_choice_of_objects_and_their_masks(folder: Folder) -> None:
    data = dataset(folder, crowded_limit=2, flip=0.0)
    position = data.image_ids.index(3)
    all_objects = targets_of(data[position])
    choices = set()
    for seed in range(30):
        part = targets_of(data[SeededIndex(position, seed)])
        assert len(part.labels) == 2
        kept = [all_objects.labels.tolist().index(label) for label in part.labels.tolist()]
        assert torch.equal(part.boxes, all_objects.boxes[kept]) and torch.equal(part.masks, all_objects.masks[kept])
        choices.add(tuple(kept))
    assert choices == {(0, 1), (0, 2), (1, 2)}


def test_limit_takes_the_first_annotated_images_by_id(folder: Folder) -> None:
    split = dataclasses.replace(folder.config.train, limit=2)
    assert CocoDataset(folder.config, split, train=True, semantic=False).image_ids == [3, 7]
    folder.content["annotations"] = [a for a in folder.content["annotations"] if a["image_id"] != 3]
    folder.write()
    assert CocoDataset(folder.config, split, train=False, semantic=False).image_ids == [7, 12]


def test_validation_has_no_targets_and_never_flips(folder: Folder) -> None:
    data = dataset(folder, train=False, flip=1.0)
    sample = data[SeededIndex(0, 1)]
    assert sample.targets is None and torch.equal(sample.image, data[0].image)


def test_semantic_map_from_instances_has_small_objects_on_top_and_crowds_ignored(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(folder, semantic=True)
    assert "drawn from the instance masks" in caplog.text
    semantic = targets_of(data[data.image_ids.index(3)]).semantic
    assert semantic is not None and semantic.dtype == torch.uint8 and semantic.shape == (150, 180)
    assert semantic[0, 0] == 0, "background"
    assert semantic[45, 30] == 3, "the large bottle"
    assert semantic[19, 93] == 2, "the small train on it"
    assert semantic[90, 120] == 1, "the bicycle"
    assert semantic[140, 10] == 255, "the crowd"


def test_objects_left_out_by_crowded_limit_are_still_on_the_semantic_map(folder: Folder) -> None:
    data = dataset(folder, semantic=True, crowded_limit=1, flip=0.0)
    semantic = targets_of(data[SeededIndex(0, 0)]).semantic
    assert semantic is not None and set(semantic.flatten().tolist()) == {0, 1, 2, 3, 255}


def write_stuff_maps(folder: Folder, value: int = 9) -> None:
    (folder.root / "stuff").mkdir()
    for image in folder.content["images"]:
        labels = np.full((image["height"], image["width"]), value, np.uint8)
        labels[: image["height"] // 2] = 255
        cv2.imwrite(str(folder.root / "stuff" / f"{image['id']}.png"), labels)


def test_stuff_maps_are_used_unchanged_if_they_exist(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    write_stuff_maps(folder)
    caplog.set_level(logging.INFO)
    semantic = targets_of(dataset(folder, semantic=True)[0]).semantic
    assert "stuff maps of" in caplog.text
    assert semantic is not None and semantic[74, 0] == 255 and semantic[75, 0] == 9
    assert set(semantic.flatten().tolist()) == {9, 255}


def test_a_stuff_map_with_a_class_beyond_the_logits_is_refused(folder: Folder) -> None:
    write_stuff_maps(folder, value=20)
    with pytest.raises(UserError, match=r"3\.png holds the class 20 but data\.semantic_classes=12"):
        dataset(folder, semantic=True, semantic_classes=12)[0]


def test_a_missing_stuff_map_is_named(folder: Folder) -> None:
    write_stuff_maps(folder)
    (folder.root / "stuff" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png is missing"):
        dataset(folder, semantic=True)[0]


def in_subfolders(folder: Folder, names: dict[int, str]) -> None:
    """Replace the images by copies of image 3 with new names, so that each stuff map fits each image."""
    size = {"height": 100, "width": 120}
    folder.content["images"] = [{"id": i, "file_name": name, **size} for i, name in names.items()]
    folder.content["annotations"] = [
        {**folder.content["annotations"][1], "id": i, "image_id": i, "category_id": 2} for i in names
    ]
    folder.write()
    for name in names.values():
        path = folder.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder.root / "images" / "3.png").read_bytes())


def write_stuff_map(folder: Folder, name: str, value: int) -> None:
    path = folder.root / "stuff" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((100, 120), value, np.uint8))


def test_images_with_the_same_name_in_two_subfolders_have_separate_stuff_maps(folder: Folder) -> None:
    in_subfolders(folder, {1: "aachen/0001.png", 2: "berlin/0001.png", 3: "berlin/0002.png"})
    write_stuff_map(folder, "aachen/0001.png", 5)
    write_stuff_map(folder, "berlin/0001.png", 6)
    write_stuff_map(folder, "0002.png", 7)
    data = dataset(folder, semantic=True)
    for index, value in enumerate((5, 6, 7)):
        semantic = targets_of(data[index]).semantic
        assert semantic is not None and set(semantic.flatten().tolist()) == {value}


@pytest.mark.parametrize(
    "names", [{1: "aachen/0001.png", 2: "berlin/0001.png"}, {1: "0001.png", 2: "0001.jpg"}], ids=["folders", "suffixes"]
)
def test_images_that_would_share_a_stuff_map_are_refused(folder: Folder, names: dict[int, str]) -> None:
    in_subfolders(folder, names)
    write_stuff_map(folder, "0001.png", 5)
    with pytest.raises(UserError, match=rf"images {names[1]} and {names[2]} have one stuff map, 0001\.png in .*stuff"):
        dataset(folder, semantic=True)


def test_an_image_listed_twice_has_one_stuff_map(folder: Folder) -> None:
    in_subfolders(folder, {1: "aachen/0001.png", 2: "./aachen/0001.png"})
    write_stuff_map(folder, "0001.png", 5)
    assert len(dataset(folder, semantic=True)) == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that exists and cannot be read")
def test_unreadable_stuff_map_counts_as_an_unreadable_image(folder: Folder) -> None:
    write_stuff_maps(folder)
    data = dataset(folder, semantic=True, on_bad_image=OnBadImage.skip)
    (folder.root / "stuff" / "3.png").unlink()
    # This file exists, but reading it fails with an input/output error, also for root.
    (folder.root / "stuff" / "3.png").symlink_to("/proc/self/mem")
    with pytest.raises(UnreadableImageError, match=r"image 3: .*stuff/3\.png cannot be read \(Input/output error\)"):
        data[0]
    replaced = [data[SeededIndex(0, seed)] for seed in range(3)]
    assert all(sample.image_id != 3 and "cannot be read" in sample.replaces[0] for sample in replaced)


def test_too_few_semantic_classes_for_instances_are_refused_at_the_start(folder: Folder) -> None:
    with pytest.raises(UserError, match=r"data\.semantic_classes=3 is too small.*set it to 4"):
        dataset(folder, semantic=True, semantic_classes=3)


def test_without_semantic_branch_no_map_is_made(folder: Folder) -> None:
    assert targets_of(dataset(folder, semantic_classes=1)[0]).semantic is None


def test_a_missing_annotation_file_is_named(folder: Folder) -> None:
    folder.file.unlink()
    with pytest.raises(UserError, match=r"annotations\.json does not exist"):
        dataset(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("5", "has no `images`"),
        ('{"images": []}', "has no `annotations`"),
        ('[{"image_id": 1}]', "has no `images`"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "image 1 has no `height`"),
    ],
)
def test_a_file_that_is_not_coco_is_refused_in_one_sentence(folder: Folder, text: str, sentence: str) -> None:
    folder.file.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        dataset(folder)
    assert "\n" not in str(caught.value)


def test_an_annotation_of_an_unknown_category_is_named(folder: Folder) -> None:
    folder.content["annotations"][0]["category_id"] = 5
    folder.write()
    with pytest.raises(UserError, match="annotation 1 names category 5"):
        dataset(folder)


def test_missing_image_files_are_found_before_training(folder: Folder) -> None:
    (folder.root / "images" / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png does not exist"):
        dataset(folder)


def test_an_image_of_another_size_than_annotated_is_refused(folder: Folder) -> None:
    cv2.imwrite(str(folder.root / "images" / "3.png"), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(UserError, match=r"3\.png is not 100 px high and 120 px wide"):
        dataset(folder)[0]


def test_a_data_set_can_be_pickled_for_spawned_workers(folder: Folder) -> None:
    data = dataset(folder, semantic=True)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(targets_of(copy[SeededIndex(0, 3)]).masks, targets_of(data[SeededIndex(0, 3)]).masks)


def test_every_real_training_image_has_pycocotools_masks_and_boxes_inside(coco_tiny: DataConfig) -> None:
    data = build_dataset(coco_tiny, train=True, semantic=True)
    truth = COCO(str(data.annotation_file))
    assert len(data) >= 70 and len(data.category_ids) == 80 and data.category_ids[-1] == 90
    for position, image_id in enumerate(data.image_ids):
        sample = data[position]
        targets = targets_of(sample)
        height, width = sample.image.shape[1:]
        assert (targets.boxes >= 0).all() and (targets.boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (targets.boxes[:, 2:] > targets.boxes[:, :2]).all()
        annotations = [
            a for a in truth.imgToAnns[image_id]
            if not a["iscrowd"] and a["area"] > 0 and min(a["bbox"][2:]) >= 1
        ]  # fmt: skip
        assert [data.category_ids[label] for label in targets.labels] == [a["category_id"] for a in annotations]
        for mask, annotation in zip(targets.masks.numpy(), annotations, strict=True):
            original = truth.annToMask(annotation)
            np.testing.assert_array_equal(mask, cv2.resize(original, (width, height), interpolation=cv2.INTER_NEAREST))


def test_real_validation_images_are_all_read(coco_tiny: DataConfig) -> None:
    data = build_dataset(coco_tiny, train=False, semantic=False)
    listed = json.loads(data.annotation_file.read_text())["images"]
    assert data.image_ids == sorted(image["id"] for image in listed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in listed}
    for position in range(len(data)):
        sample = data[position]
        assert sample.original_size == sizes[sample.image_id]
        assert min(sample.image.shape[1:]) <= 400 and max(sample.image.shape[1:]) <= 666
