"""COCO's AP where each image has a weight: the value that pycocotools gives where images are duplicated as often.

A bootstrap of the images draws each image some number of times, which is its weight. Detections are sorted once; for
each vector of weights, precision and recall are prefix sums over them. Only true positives change the recall, so only
there precision is needed; and all but the matched detections count alike at every IoU threshold.

Equal scores of one category within one image are adjacent copies where the image is duplicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.statistics.matching import THRESHOLDS, CategoryMatches, Matches
from analysis.statistics.truth import AREAS, Array

RECALLS: Array = np.linspace(0.0, 1.0, 101)
"""COCO's recall thresholds."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CHUNK = 128
"""Resamples at a time: the sums of a category then stay in the processor's cache."""


@dataclass
class WeightedAP:
    """AP by resample, category, area range and IoU threshold."""

    values: Array
    """[R, K, A, T] in 0..1; NaN where the images of the resample have no object that counts."""

    def metric(self, name: str) -> Array:
        """Return a metric of COCO by its name, such as `AP75`: [R]; NaN where there is no object."""
        return self.per_category(name, slice(None))

    def per_category(self, name: str, category: Any) -> Array:
        """Return the same for some categories, by index or slice: [R]."""
        if name not in METRICS:
            raise ValueError(f"{name} is none of {', '.join(METRICS)}")
        area = {"APs": 1, "APm": 2, "APl": 3}.get(name, 0)
        thresholds: Any = {"AP50": slice(0, 1), "AP75": slice(5, 6)}.get(name, slice(None))
        chosen = self.values[:, category, area, thresholds]
        means = chosen.reshape(len(chosen), -1, chosen.shape[-1]).mean(axis=2)
        known = ~np.isnan(means)
        total = np.where(known, means, 0.0).sum(axis=1)
        number = known.sum(axis=1)
        return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)


def weighted_ap(matches: Matches, weights: Array) -> WeightedAP:
    """Return the AP under each vector of image weights.

    Args:
        matches: matched detections.
        weights: [R, images] how often each image counts in each resample: whole numbers, 0 or more.
    """
    resamples = len(weights)
    values = np.empty((resamples, len(matches.categories), len(AREAS), len(THRESHOLDS)))
    prepared = [_prepare(category) for category in matches.categories]
    for start in range(0, resamples, CHUNK):
        chunk = slice(start, start + CHUNK)
        # [images, R], so that the weights of an image are adjacent; exact up to 2 ** 24 detections.
        columns = np.ascontiguousarray(np.asarray(weights[chunk]).T, dtype=np.float32)
        for index, category in enumerate(prepared):
            values[chunk, index] = _category_ap(category, columns)
    return WeightedAP(values)


def unit_ap(matches: Matches) -> WeightedAP:
    """Return the AP of the images as they are, which is that of pycocotools: R is 1."""
    return weighted_ap(matches, np.ones((1, len(matches.truth.image_ids)), dtype=np.float32))


@dataclass
class _Threshold:
    """What one area range and IoU threshold need, in the order of the scores."""

    images: Array
    """[M] images of the true positives."""
    counted_before: Array
    """[M] number of rows of the prefix sum of `_Area.images` up to each true positive."""
    corrected: Array
    """[C] images of the detections that count otherwise than without a match."""
    signs: Array
    """[C] 1: true positives whose own area is out of the range; -1: matched with an object that does not count."""
    corrected_before: Array
    """[M] number of these up to each true positive."""


@dataclass
class _Area:
    objects: Array
    """[G] images of the objects that count."""
    images: Array
    """[N] images of the detections that count without a match, up to the last true positive."""
    thresholds: list[_Threshold]


def _prepare(category: CategoryMatches) -> list[_Area]:
    """Return what the sums over the detections of a category need, by area range."""
    areas = []
    for area in range(len(AREAS)):
        positives = category.true_positive[area]
        last = int(positives.any(axis=0).nonzero()[0].max(initial=-1)) + 1
        base = np.flatnonzero(category.in_area[area, :last])
        thresholds = []
        for positive, ignored in zip(positives, category.ignored[area], strict=True):
            at = np.flatnonzero(positive)
            counts = category.in_area[area, :last]
            sign = (positive[:last] & ~counts).astype(np.int8) - (ignored[:last] & counts).astype(np.int8)
            corrected = np.flatnonzero(sign)
            thresholds.append(
                _Threshold(
                    category.image[at],
                    np.searchsorted(base, at, side="right"),
                    category.image[corrected],
                    sign[corrected].astype(np.float32)[:, None],
                    np.searchsorted(corrected, at, side="right"),
                )
            )
        areas.append(_Area(category.object_image[category.object_counts[area]], category.image[base], thresholds))
    return areas


def _category_ap(areas: Sequence[_Area], weights: Array) -> Array:
    """Return the AP of a category: [R, A, T].

    weights: [images, R] float32.
    """
    resamples = weights.shape[1]
    values = np.full((resamples, len(areas), len(THRESHOLDS)), np.nan)
    for index, area in enumerate(areas):
        objects = weights[area.objects].sum(axis=0, dtype=np.float64)
        known = objects > 0
        counted = _prefix_sums(weights[area.images])
        for number, threshold in enumerate(area.thresholds):
            found = _ap(threshold, weights, counted, objects) if len(threshold.images) else np.zeros(resamples)
            values[known, index, number] = found[known]
    return values


def _ap(threshold: _Threshold, weights: Array, counted: Array, objects: Array) -> Array:
    """Return the AP of a category at one threshold: [R]."""
    positives = np.cumsum(weights[threshold.images], axis=0)
    total = counted[threshold.counted_before]
    if len(threshold.corrected):
        total += _prefix_sums(weights[threshold.corrected] * threshold.signs)[threshold.corrected_before]
    precision = np.divide(positives, total, out=np.zeros(positives.shape), where=total > 0, dtype=np.float64)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(positives, objects, out=np.zeros(positives.shape), where=objects > 0, dtype=np.float64)
    reached = _recalls_reached(recall)
    reached[1:] -= reached[:-1].copy()
    return np.einsum("mr,mr->r", envelope, reached) / len(RECALLS)


def average_precision(images: Array, positive: Array, objects: Array, weights: Array) -> Array:
    """Return COCO's 101-point AP of one category at one threshold under image weights, in 0..1: [R].

    Args:
        images: [D] image of each detection, from the highest score to the lowest.
        positive: [D] bool, whether the detection is right.
        objects: [G] image of each object.
        weights: [images, R] float32, how often each image counts. Without any object, the AP is 0.
    """
    at = np.flatnonzero(positive)
    if not len(at):
        return np.zeros(weights.shape[1])
    none = np.zeros(0, dtype=np.int64)
    threshold = _Threshold(images[at], at + 1, none, none, none)
    total = weights[objects].sum(axis=0, dtype=np.float64)
    return np.where(total > 0, _ap(threshold, weights, _prefix_sums(weights[images[: at[-1] + 1]]), total), 0.0)


def _recalls_reached(recall: Array) -> Array:
    """Return how many of RECALLS are at most this recall; as searchsorted on the right, only quicker."""
    index = (recall * (len(RECALLS) - 1)).astype(np.int64)
    np.minimum(index, len(RECALLS) - 1, out=index)
    following = np.append(RECALLS, np.inf)
    index += following[index + 1] <= recall
    index -= RECALLS[index] > recall
    return index + 1


def _prefix_sums(rows: Array) -> Array:
    """Return the sums of the first 0, 1, 2, ... rows."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]), dtype=rows.dtype)
    np.cumsum(rows, axis=0, out=sums[1:])
    return sums
