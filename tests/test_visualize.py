"""Drawn detections are visible, and the rest of the image is unchanged."""

from __future__ import annotations

import colorsys
from itertools import pairwise

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from htc.ops.paste import encode_region
from htc.structures import RLE
from htc.visualize import distinct_colors, draw_detections, free_place
from tests.helpers.coco_tiny import ANNOTATIONS, ROOT, category_ids, needs_coco_tiny


def square(left: int, top: int, side: int, height: int, width: int) -> tuple[list[float], RLE]:
    box = [float(left), float(top), float(left + side), float(top + side)]
    return box, encode_region(np.ones((side, side), dtype=bool), left, top, height, width)


def draw_squares(places: list[tuple[int, int, int]], size: tuple[int, int], scores: list[float]) -> np.ndarray:
    made = [square(*place, *size) for place in places]
    boxes = np.array([box for box, _ in made]).reshape(-1, 4)
    image = np.full((*size, 3), 128, dtype=np.uint8)
    return draw_detections(image, boxes, [0] * len(made), scores, [rle for _, rle in made], ["thing"])


@pytest.mark.parametrize("size", [(200, 300), (3000, 4000)])
def test_label_is_readable_at_any_picture_size(size: tuple[int, int]) -> None:
    """The label has a readable share of the picture, and its text contrasts with its background."""
    side = size[0] // 2
    drawn = draw_squares([(side // 2, side // 2, side)], size, [0.9])
    color = distinct_colors(1)[0]
    plain = (drawn[: side // 2 - 1] == color).all(axis=2)
    rows, columns = np.nonzero(plain)
    label_height, label_width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert label_height >= 10 and 0.015 < label_height / size[0] < 0.1
    assert 0.05 < label_width / size[1] < 0.5
    label = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3)
    contrast = np.abs(label.astype(int) - color).sum(axis=1)
    assert (contrast > 200).mean() > 0.05


def test_mask_is_translucent_and_the_rest_is_unchanged() -> None:
    drawn = draw_squares([(100, 100, 100)], (300, 300), [0.9])
    expected = 128 * 0.6 + np.array(distinct_colors(1)[0]) * 0.4
    assert np.abs(drawn[150, 150] - expected).max() <= 1
    assert (drawn[215:] == 128).all() and (drawn[:, 215:] == 128).all() and (drawn[:75] == 128).all()


def test_input_image_is_not_changed() -> None:
    image = np.full((100, 100, 3), 128, dtype=np.uint8)
    box, rle = square(10, 10, 50, 100, 100)
    draw_detections(image, np.array([box]), [0], [0.9], [rle], ["thing"])
    assert (image == 128).all()


def test_better_detection_is_on_top() -> None:
    drawn = draw_squares([(50, 50, 100), (50, 50, 100)], (300, 300), [0.2, 0.9])
    first, second = (np.array(color) for color in distinct_colors(2))
    expected = (128 * 0.6 + first * 0.4) * 0.6 + second * 0.4
    assert np.abs(drawn[100, 100] - expected).max() <= 2


def test_image_without_detections_is_unchanged() -> None:
    assert (draw_squares([], (50, 60), []) == 128).all()


def test_empty_mask_and_box_outside_are_drawn_without_error() -> None:
    image = np.full((60, 80, 3), 128, dtype=np.uint8)
    empty = encode_region(np.zeros((0, 0), dtype=bool), 0, 0, 60, 80)
    boxes = np.array([[10.0, 10.0, 10.0, 10.0], [-20.0, -20.0, 200.0, 200.0]])
    assert draw_detections(image, boxes, [0, 0], [0.9, 0.8], [empty, empty], ["ünïcode"]).shape == image.shape


def test_neighbouring_colors_differ() -> None:
    colors = distinct_colors(100)
    assert len(set(colors)) == 100
    for first, second in pairwise(colors):
        hues = [colorsys.rgb_to_hsv(*(channel / 255 for channel in color))[0] for color in (first, second)]
        apart = abs(hues[0] - hues[1])
        assert min(apart, 1 - apart) > 0.2


def test_labels_do_not_cover_each_other() -> None:
    """Of thirty objects in one place, as many get a label as there is space for."""
    boxes = np.tile([[100.0, 100.0, 180.0, 180.0]], (30, 1))
    taken: list[tuple[int, int, int, int]] = []
    for box in boxes:
        place = free_place(box, 60, 14, 300, 300, boxes, taken)
        if place is not None:
            taken.append((place[0], place[1], place[0] + 60, place[1] + 14))
    assert 8 <= len(taken) < 30
    covered = np.zeros((300, 300), dtype=int)
    for x0, y0, x1, y1 in taken:
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1


def test_label_stays_inside_the_picture() -> None:
    box = np.array([290.0, 0.0, 300.0, 5.0])
    place = free_place(box, 60, 14, 300, 300, box[None], [])
    assert place is not None and 0 <= place[0] <= 240 and 0 <= place[1] <= 286


@needs_coco_tiny
def test_real_ground_truth_is_drawn_at_its_masks() -> None:
    truth = COCO(str(ANNOTATIONS))
    image_id = max(truth.getImgIds(), key=lambda i: len(truth.getAnnIds(i, iscrowd=False)))
    image = cv2.cvtColor(cv2.imread(str(ROOT / "val2017" / truth.imgs[image_id]["file_name"])), cv2.COLOR_BGR2RGB)
    annotations = truth.loadAnns(truth.getAnnIds(image_id, iscrowd=False))
    boxes = np.array([annotation["bbox"] for annotation in annotations])
    boxes[:, 2:] += boxes[:, :2]
    ids = category_ids()
    labels = [ids.index(annotation["category_id"]) for annotation in annotations]
    names = [category["name"] for category in truth.loadCats(ids)]
    rles = [truth.annToRLE(annotation) for annotation in annotations]
    for rle in rles:
        rle["counts"] = rle["counts"].decode()
    drawn = draw_detections(image, boxes, labels, None, rles, names)
    changed = (drawn != image).any(axis=2)
    masks = np.stack([truth.annToMask(annotation) for annotation in annotations]).any(axis=0)
    assert changed[masks].mean() > 0.98
    assert changed.mean() < 0.95
