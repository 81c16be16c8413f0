"""Where AP is lost, in the terms of TIDE (Bolya et al., ECCV 2020): what each kind of error costs.

Each false detection has one kind of error, and each missed object that no such error explains is one, too. What a kind
costs is the AP50 that is gained where all errors of this kind are repaired and all others stay. Definitions, order of
precedence, and details (100 detections per image over all categories; a category without objects has AP 0 as long as it
is detected) are those of `tidecv` 1.0.1. Equal scores have COCO's order, in which a repaired detection keeps its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as masks

from analysis.statistics.matching import outlines_of
from analysis.statistics.truth import Array, Truth
from analysis.statistics.weighted_ap import CHUNK, average_precision

RIGHT, BACKGROUND = 0.5, 0.1
"""IoU from which a detection is right, and IoU up to which it is on background."""
MAX_DETECTIONS = 100
"""Detections per image that count, over all categories."""
ERRORS = ("classification", "localization", "both", "duplicate", "background", "missed")
"""Kinds of errors; of several that a detection fits, the one that is tried first is its kind:

- localization: the category is right, and the IoU is BACKGROUND to RIGHT;
- classification: the IoU with an object of another category is RIGHT or more;
- duplicate: the object is taken by a detection with a higher score;
- background: no object has an IoU above BACKGROUND;
- both: any other;
- missed: an object that no detection takes, and no localization or classification error concerns.
"""
SPECIAL = ("false positives", "false negatives")
"""Repairs of all errors of one side: no false detection comes before a right one; only objects that are found count."""
REPAIRS = ("", *ERRORS, *SPECIAL)
"""The AP is computed with each of these repairs; the first one is none."""


@dataclass
class FoundErrors:
    """Detections and objects of one evaluation with their errors. D detections count; G objects are not crowds."""

    truth: Truth
    image: Array
    """[D] index of the image of each detection."""
    category: Array
    """[D] index of its category."""
    score: Array
    """[D] float64"""
    positive: Array
    """[D] whether it is right."""
    ignored: Array
    """[D] whether it is in a crowd of its category: it does not count unless it is repaired."""
    error: Array
    """[D] index in ERRORS; -1 for none."""
    repaired: Array
    """[D] category for which the detection is right once its error is repaired; -1: the detection is then removed."""
    object_image: Array
    """[G]"""
    object_category: Array
    """[G]"""
    found: Array
    """[G] whether a detection takes the object."""
    missed: Array
    """[G] whether it is an error of the kind `missed`."""

    def counts(self) -> dict[str, int]:
        """Return the number of errors of each kind."""
        numbers = {name: int((self.error == index).sum()) for index, name in enumerate(ERRORS)}
        return {**numbers, "missed": int(self.missed.sum())}


@dataclass
class ErrorAP:
    """AP50 with each repair."""

    values: Array
    """[R, repairs, K] by resample, repair and category, in 0..1; NaN where the category has nothing that counts."""

    def metric(self, repair: str, category: int | None = None) -> Array:
        """Return the AP with a repair of REPAIRS, over all categories or of one: [R]."""
        chosen = self.values[:, REPAIRS.index(repair)]
        if category is not None:
            return chosen[:, category]
        known = ~np.isnan(chosen)
        total = np.where(known, chosen, 0.0).sum(axis=1)
        return np.divide(total, known.sum(axis=1), out=np.full(len(total), np.nan), where=known.any(axis=1))

    def cost(self, repair: str, category: int | None = None) -> Array:
        """Return the AP that a repair gains: [R]. It can be a little below 0, as precision is read at 101 recalls."""
        return self.metric(repair, category) - self.metric("", category)


def find_errors(results: Sequence[Mapping[str, Any]], truth: Truth, kind: str) -> FoundErrors:
    """Tell right detections from wrong ones, and name the error of each.

    Args:
        results: detections in COCO's result format; those of other images and categories are left out.
        truth: the ground truth.
        kind: `bbox` or `segm`.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        image = truth.image_index.get(result["image_id"])
        if image is not None and result["category_id"] in truth.category_index:
            by_image[image].append(result)
    objects: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    crowds: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for category, image in sorted(truth.annotations):
        outlines = truth.outlines(category, image, kind)
        for annotation, outline in zip(truth.annotations[category, image], outlines, strict=True):
            (crowds if annotation["iscrowd"] else objects)[image].append((category, outline))
    images = [_Image(image, by_image.get(image, []), objects[image], crowds[image], truth, kind)
              for image in sorted({*by_image, *objects})]  # fmt: skip
    by_size: dict[tuple[int, int], list[_Image]] = defaultdict(list)
    for each in images:
        by_size[_padded(len(each.scores)), _padded(len(each.objects))].append(each)
    for (detections, wide), group in by_size.items():
        if detections:
            _classify(group, detections, wide)
    return FoundErrors(
        truth,
        _joined([np.full(len(each.scores), each.index) for each in images], np.int64),
        _joined([each.categories for each in images], np.int64),
        _joined([each.scores for each in images], np.float64),
        _joined([each.positive for each in images], bool),
        _joined([each.ignored for each in images], bool),
        _joined([each.error for each in images], np.int64),
        _joined([each.repaired for each in images], np.int64),
        _joined([np.full(len(each.objects), each.index) for each in images], np.int64),
        _joined([each.objects for each in images], np.int64),
        _joined([each.found for each in images], bool),
        _joined([each.missed for each in images], bool),
    )


def error_ap(found: FoundErrors, weights: Array) -> ErrorAP:
    """Return AP50 with each repair under each vector of image weights.

    Args:
        found: detections with their errors.
        weights: [R, images] how often each image counts in each resample.
    """
    categories = range(len(found.truth.category_ids))
    order = np.argsort(-found.score, kind="stable")
    rows = {
        category: (
            order[(found.category[order] == category) | (found.repaired[order] == category)],
            np.flatnonzero(found.object_category == category),
        )
        for category in categories
    }
    values = np.full((len(weights), len(REPAIRS), len(categories)), np.nan)
    for start in range(0, len(weights), CHUNK):
        chunk = slice(start, start + CHUNK)
        columns = np.ascontiguousarray(np.asarray(weights[chunk]).T, dtype=np.float32)
        for category, (detections, objects) in rows.items():
            for index, repair in enumerate(REPAIRS):
                values[chunk, index, category] = _repaired_ap(found, category, repair, detections, objects, columns)
    return ErrorAP(values)


def _repaired_ap(
    found: FoundErrors, category: int, repair: str, detections: Array, objects: Array, weights: Array
) -> Array:
    """Return the AP of one category with one repair: [R]; NaN where nothing counts.

    Args:
        found: detections with their errors.
        category: index of the category.
        repair: one of REPAIRS.
        detections: those of the category, and those that a repair turns into it, from the highest score on.
        objects: those of the category.
        weights: [images, R].
    """
    error, own = found.error[detections], found.category[detections] == category
    positive, kept = found.positive[detections] & own, own & ~found.ignored[detections]
    if repair in ERRORS[:-1]:
        concerned = error == ERRORS.index(repair)
        kept = kept & ~concerned
        gained = concerned & (found.repaired[detections] == category)
        positive, kept = positive | gained, kept | gained
    elif repair == "missed":
        objects = objects[~found.missed[objects]]
    elif repair == "false negatives":
        objects = objects[found.found[objects]]
    images, positive = found.image[detections[kept]], positive[kept]
    object_images = found.object_image[objects]
    if repair == "false positives":
        # They come after all right detections, where they change nothing.
        value = average_precision(images[positive], positive[positive], object_images, weights)
    else:
        value = average_precision(images, positive, object_images, weights)
    counts = (weights[np.unique(np.concatenate([images, object_images]))] > 0).any(axis=0)
    return np.where(counts, value, np.nan)


class _Image:
    """The detections and objects of one image, and what becomes of them."""

    def __init__(
        self, index: int, results: list[Mapping[str, Any]], objects: list[tuple[int, Any]],
        crowds: list[tuple[int, Any]], truth: Truth, kind: str,
    ) -> None:  # fmt: skip
        self.index = index
        order = np.argsort([-result["score"] for result in results], kind="stable")[:MAX_DETECTIONS]
        results = [results[place] for place in order]
        self.scores = np.array([result["score"] for result in results], dtype=np.float64)
        self.categories = np.array([truth.category_index[each["category_id"]] for each in results], dtype=np.int64)
        self.objects = np.array([category for category, _ in objects], dtype=np.int64)
        outlines = outlines_of(results, truth, index, kind)
        self.iou = np.zeros((len(results), len(objects)))
        self.ignored = np.zeros(len(results), dtype=bool)
        if results and objects:
            self.iou = masks.iou(outlines, [outline for _, outline in objects], [0] * len(objects))
        if results and crowds:
            overlap = masks.iou(outlines, [outline for _, outline in crowds], [1] * len(crowds))
            of_category = self.categories[:, None] == np.array([category for category, _ in crowds])
            self.ignored = ((overlap > RIGHT) & of_category).any(axis=1)
        self.positive = np.zeros(len(results), dtype=bool)
        self.error = np.full(len(results), -1, dtype=np.int64)
        self.repaired = np.full(len(results), -1, dtype=np.int64)
        self.found = np.zeros(len(objects), dtype=bool)
        self.missed = np.ones(len(objects), dtype=bool)


def _padded(number: int) -> int:
    """Return the next power of two, so that images of about one size are handled together; 0 for 0."""
    return 1 << (number - 1).bit_length() if number else 0


def _classify(images: Sequence[_Image], depth: int, width: int) -> None:
    """Match the detections of P images, and name their errors.

    Args:
        images: images with at most `depth` detections, at least one, and at most `width` objects.
        depth: D below.
        width: G below.
    """
    iou = np.zeros((len(images), depth, width + 1))
    category = np.full((len(images), depth), -1)
    object_category = np.full((len(images), width + 1), -2)
    exists = np.zeros((len(images), depth), dtype=bool)
    for row, image in enumerate(images):
        detections, objects = image.iou.shape
        iou[row, :detections, :objects] = image.iou
        category[row, :detections], exists[row, :detections] = image.categories, True
        object_category[row, :objects] = image.objects
    same = category[:, :, None] == object_category[:, None, :]
    of_category, of_others = iou * same, iou * ~same
    free, positive, taken = of_category.copy(), np.zeros_like(exists), np.zeros(object_category.shape, dtype=bool)
    for rank in range(depth):
        best = free[:, rank].argmax(axis=1)
        rows = np.flatnonzero(free[np.arange(len(images)), rank, best] >= RIGHT)
        positive[rows, rank], taken[rows, best[rows]] = True, True
        free[rows, :, best[rows]] = 0
    nearest, nearest_other = of_category.argmax(axis=2), of_others.argmax(axis=2)
    own_iou, other_iou = of_category.max(axis=2), of_others.max(axis=2)
    taken_iou = (of_category * taken[:, None, :]).max(axis=2)
    without_objects = np.array([not len(image.objects) for image in images])[:, None]
    # The first one that holds is the error of a detection.
    error = np.select(
        [
            without_objects | np.zeros_like(exists),
            (own_iou >= BACKGROUND) & (own_iou <= RIGHT),
            other_iou >= RIGHT,
            taken_iou >= RIGHT,
            iou.max(axis=2) <= BACKGROUND,
        ],
        [ERRORS.index(name) for name in ("background", "localization", "classification", "duplicate", "background")],
        ERRORS.index("both"),
    )
    error[~exists | positive] = -1
    target = np.where(error == ERRORS.index("localization"), nearest, nearest_other)
    concerns = (error == ERRORS.index("localization")) | (error == ERRORS.index("classification"))
    concerns &= ~np.take_along_axis(taken, target, axis=1)
    # Of several errors that concern one free object, the detection with the highest score takes it.
    claims = concerns[:, :, None] & (target[:, :, None] == np.arange(width + 1))
    first = claims.argmax(axis=1)
    wins = concerns & (np.take_along_axis(first, target, axis=1) == np.arange(depth))
    repaired = np.where(wins, np.take_along_axis(object_category, target, axis=1), -1)
    missed = ~taken & ~claims.any(axis=1)
    for row, image in enumerate(images):
        detections, objects = image.iou.shape
        image.positive, image.error = positive[row, :detections], error[row, :detections]
        image.ignored = image.ignored & ~image.positive
        image.repaired = repaired[row, :detections]
        image.found, image.missed = taken[row, :objects], missed[row, :objects]


def _joined(parts: Sequence[Array], dtype: Any) -> Array:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
