"""Matching of detections with objects as pycocotools does it, for all IoU thresholds and area ranges at once.

Matching concerns one image and one category at a time, so it is done once; whatever weights the images get later. The
detections of all images are handled together, rank by rank: the k-th best detection of every image in one step.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks

from analysis.statistics.boundary import boundary_overlap
from analysis.statistics.truth import AREAS, BOUNDARY, Array, Truth
from htc.errors import UserError

THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
MAX_DETECTIONS = 100
"""Detections per image and category that count."""
_BOUNDS: Array = np.array(list(AREAS.values()))


@dataclass
class CategoryMatches:
    """Detections of one category, from the highest score to the lowest, and the objects that they are compared with.

    A is the number of area ranges, T that of IoU thresholds, D that of detections, G that of objects.
    """

    image: Array
    """[D] index of the image of each detection."""
    score: Array
    """[D] float64"""
    result: Array
    """[D] index of each detection among all detections that were matched, in their order."""
    in_area: Array
    """[A, D] whether the area of the detection is in the range: without a match, it counts as a false positive."""
    true_positive: Array
    """[A, T, D] whether the detection matches an object that counts."""
    ignored: Array
    """[A, T, D] whether it matches an object that does not count: a crowd, or one of another size."""
    object: Array
    """[A, T, D] index of the matched object in `object_image`; -1 without a match."""
    object_image: Array
    """[G] index of the image of each object."""
    object_counts: Array
    """[A, G] whether the object counts."""


@dataclass
class Matches:
    """Detections of one kind, boxes or masks, matched with the ground truth."""

    kind: str
    """`bbox`, `segm` or `boundary`."""
    truth: Truth
    categories: list[CategoryMatches]
    """By index of the category."""


def match_file(path: Path, truth: Truth, kind: str) -> Matches:
    """Match the detections of a file in COCO's result format. Raises UserError where it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, list):
            raise ValueError("it is not a list")
        return match(content, truth, kind)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as results of COCO's format ({type(error).__name__}: {error})."
        ) from None


def match(results: Iterable[Mapping[str, Any]], truth: Truth, kind: str) -> Matches:
    """Match detections with the ground truth.

    Args:
        results: detections in COCO's result format, with `bbox` (xywh, pixels) or `segmentation`; those of other images
            and categories are left out.
        truth: the ground truth.
        kind: `bbox`, `segm` or `boundary`.
    """
    results = list(results)
    by_place: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, result in enumerate(results):
        image, category = truth.image_index.get(result["image_id"]), truth.category_index.get(result["category_id"])
        if image is not None and category is not None:
            by_place[category][image].append(index)
    categories = [
        _match_category(by_place.get(category, {}), results, truth, category, kind)
        for category in range(len(truth.category_ids))
    ]
    return Matches(kind, truth, categories)


def _match_category(
    places: Mapping[int, list[int]], results: Sequence[Mapping[str, Any]], truth: Truth, category: int, kind: str
) -> CategoryMatches:
    images = sorted(places)
    places = {image: _best_first(places[image], results) for image in images}
    ordered = {image: [results[index] for index in places[image]] for image in images}
    with_objects = sorted({image for each, image in truth.annotations if each == category})
    first_object: dict[int, int] = {}
    annotations: list[dict[str, Any]] = []
    object_image: list[int] = []
    for image in with_objects:
        first_object[image] = len(annotations)
        found = truth.annotations[category, image]
        annotations += found
        object_image += [image] * len(found)
    crowd = np.array([bool(annotation["iscrowd"]) for annotation in annotations], dtype=bool)
    area = np.array([float(annotation["area"]) for annotation in annotations])
    counts = ~crowd & (area >= _BOUNDS[:, :1]) & (area <= _BOUNDS[:, 1:])

    number = np.array([len(ordered[image]) for image in images], dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    total = int(start[-1])
    image_of = np.repeat(np.array(images, dtype=np.int64), number)
    score = np.array([result["score"] for image in images for result in ordered[image]], dtype=np.float64)
    outlines = {image: outlines_of(ordered[image], truth, image, kind) for image in images}
    sizes = np.concatenate([_areas(outlines[image], kind) for image in images]) if total else np.zeros(0)
    in_area = (sizes >= _BOUNDS[:, :1]) & (sizes <= _BOUNDS[:, 1:])

    matched = np.full((len(AREAS), len(THRESHOLDS), total), -1, dtype=np.int64)
    pairs = [
        _Pair(
            int(start[place]),
            first_object[image],
            _overlap(
                outlines[image],
                truth.outlines(category, image, kind),
                [int(annotation["iscrowd"]) for annotation in truth.annotations[category, image]],
                kind,
            ),
        )
        for place, image in enumerate(images)
        if image in first_object
    ]
    for group in _groups(pairs):
        _match_pairs(group, crowd, counts, matched)
    is_matched = matched >= 0
    counts_at = np.zeros_like(is_matched)
    if len(annotations):
        safe = np.maximum(matched, 0)
        counts_at = is_matched & np.stack([counts[a][safe[a]] for a in range(len(AREAS))])
    order = np.argsort(-score, kind="stable")
    return CategoryMatches(
        image=image_of[order],
        score=score[order],
        result=np.array([index for image in images for index in places[image]], dtype=np.int64)[order],
        in_area=in_area[:, order],
        true_positive=counts_at[:, :, order],
        ignored=(is_matched & ~counts_at)[:, :, order],
        object=matched[:, :, order],
        object_image=np.array(object_image, dtype=np.int64),
        object_counts=counts,
    )


def _best_first(places: list[int], results: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the detections that count, from the highest score to the lowest."""
    order = np.argsort([-results[index]["score"] for index in places], kind="stable")
    return [places[index] for index in order[:MAX_DETECTIONS]]


def outlines_of(results: Sequence[Mapping[str, Any]], truth: Truth, image: int, kind: str) -> list[Any]:
    """Return the outlines of results on an image as pycocotools compares them: boxes, or compressed run lengths."""
    if kind == "bbox":
        return [result["bbox"] for result in results]
    encoded = [result["segmentation"] for result in results]
    return [
        masks.frPyObjects(each, *truth.sizes[image]) if isinstance(each["counts"], list) else each for each in encoded
    ]


def _overlap(detections: list[Any], objects: list[Any], crowd: list[int], kind: str) -> Array:
    """Return the overlap of the detections and objects of an image, exact where it can match: [detections, objects]."""
    if kind == BOUNDARY:
        return boundary_overlap(detections, objects, crowd, float(THRESHOLDS[0]))
    return masks.iou(detections, objects, crowd)


def _areas(outlines: list[Any], kind: str) -> Array:
    if kind == "bbox":
        boxes = np.array(outlines, dtype=np.float64).reshape(-1, 4)
        return boxes[:, 2] * boxes[:, 3]
    return masks.area(outlines).astype(np.float64)


@dataclass
class _Pair:
    """One image with detections and objects of a category."""

    first_detection: int
    first_object: int
    iou: Array
    """[detections, objects]"""


def _groups(pairs: list[_Pair]) -> Iterable[list[_Pair]]:
    """Yield groups of pairs whose numbers of objects are alike, so that padding costs little."""
    by_size: dict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.iou.size and pair.iou.max() >= THRESHOLDS[0]:
            by_size[int(pair.iou.shape[1] - 1).bit_length()].append(pair)
    yield from by_size.values()


def _match_pairs(pairs: list[_Pair], crowd: Array, counts: Array, matched: Array) -> None:
    """Match the detections of some images with the objects on them, and write the objects' indices to `matched`.

    Like COCOeval.evaluateImg: each detection, from the highest score on, takes the free object with the highest IoU
    that counts, or else one that does not count; of equal ones, the last. A crowd is always free.

    Args:
        pairs: images with P detections and objects.
        crowd: [G] whether each object is a crowd.
        counts: [A, G] whether each object counts.
        matched: [A, T, D] the result.
    """
    width = max(pair.iou.shape[1] for pair in pairs)
    depth = max(pair.iou.shape[0] for pair in pairs)
    iou = np.full((len(pairs), depth, width), -1.0)
    for row, pair in enumerate(pairs):
        iou[row, : pair.iou.shape[0], : pair.iou.shape[1]] = pair.iou
    first = np.array([pair.first_object for pair in pairs])
    number = np.array([pair.iou.shape[1] for pair in pairs])
    place = np.minimum(first[:, None] + np.arange(width), (first + number - 1)[:, None])
    # [P, 1, 1, G] and [P, A, 1, G]
    always_free = crowd[place][:, None, None, :]
    counted = counts[:, place].transpose(1, 0, 2)[:, :, None, :]
    taken = np.zeros((len(pairs), len(AREAS), len(THRESHOLDS), width), dtype=bool)
    thresholds = np.minimum(THRESHOLDS, 1 - 1e-10)[None, None, :, None]
    starts = np.array([pair.first_detection for pair in pairs])
    for rank in range(depth):
        rows = np.flatnonzero(iou[:, rank].max(axis=1) >= THRESHOLDS[0])
        if not len(rows):
            continue
        overlap = iou[rows, rank][:, None, None, :]
        possible = (overlap >= thresholds) & (~taken[rows] | always_free[rows])
        chosen = np.where(possible & counted[rows], overlap, -1.0)
        other = np.where(possible & ~counted[rows], overlap, -1.0)
        value = np.where(chosen.max(axis=3, keepdims=True) >= 0, chosen, other)
        # The last of equal ones.
        best = width - 1 - value[..., ::-1].argmax(axis=3)
        found = np.take_along_axis(value, best[..., None], axis=3)[..., 0] >= 0
        at, area, threshold = np.nonzero(found)
        target = best[at, area, threshold]
        taken[rows[at], area, threshold, target] = True
        matched[area, threshold, starts[rows[at]] + rank] = first[rows[at]] + target
