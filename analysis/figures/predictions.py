"""The predictions of variants, matched with the objects: what several figures show of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.variants import Variant
from analysis.runs import Run
from analysis.statistics.intervals import compare, image_weights
from analysis.statistics.matching import THRESHOLDS, Matches, outlines_of
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import Array, Truth
from analysis.statistics.weighted_ap import unit_ap, weighted_ap
from htc.errors import UserError
from htc.runs.evaluations import evaluation_folder

SHOWN_SCORE = 0.5
"""Detections below this score are not shown, and count neither as false nor as found."""


def read_matches(variant: Variant, run: Run, resampler: Resampler, kind: str = "segm") -> Matches:
    """Return the detections of a run, matched with the objects.

    Args:
        variant: variant that the run belongs to.
        run: one of its runs.
        resampler: keeps the ground truth that several runs share.
        kind: `bbox` or `segm`.

    Raises:
        UserError: where predictions or annotations are missing, or the annotations were changed.
    """
    folder = variant.folder(run)
    if sys.stderr.isatty():
        print(f"matching {run.folder}", file=sys.stderr, flush=True)
    return resampler.matches(folder, variant.evaluation, evaluation_folder(folder, variant.evaluation).read(), kind)


def read_thresholds(variants: Sequence[Variant], resampler: Resampler, kind: str = "segm") -> pd.DataFrame:
    """Return AP by IoU threshold: `label`, `seed`, `threshold`, `AP` in percent, NaN without objects.

    Args:
        variants: variants of one group.
        resampler: keeps the ground truth.
        kind: `bbox` or `segm`.

    Raises:
        UserError: as `read_matches`.
    """
    rows = []
    for variant in variants:
        for run in variant.runs:
            # [K, T] of all sizes
            values = unit_ap(read_matches(variant, run, resampler, kind)).values[0, :, 0]
            known = values[~np.isnan(values).all(axis=1)]
            means = 100 * known.mean(axis=0) if len(known) else np.full(len(THRESHOLDS), np.nan)
            rows += [
                {"label": variant.label, "seed": run.seed, "threshold": float(threshold), "AP": float(mean)}
                for threshold, mean in zip(THRESHOLDS, means, strict=True)
            ]
    return pd.DataFrame(rows, columns=["label", "seed", "threshold", "AP"])


def read_categories(
    first: Variant, second: Variant, resampler: Resampler, kind: str = "segm", metric: str = "AP"
) -> pd.DataFrame:
    """Return by category how much higher the AP of the second variant is, with the interval of the image bootstrap.

    Args:
        first: the variant that the other is compared with.
        second: the other variant, evaluated on the same images.
        resampler: how many resamples of the images are drawn.
        kind: `bbox` or `segm`.
        metric: `AP`, `AP50`, `AP75`, `APs`, `APm` or `APl`.

    Returns:
        `category`, `objects` (their number), `first` and `second` (AP in percent, mean over the seeds), `difference`,
        and `low` and `high`, the bounds of the interval at 95 %. Categories without objects are left out.

    Raises:
        UserError: as `read_matches`, or where the variants were evaluated on other images.
    """
    of_first, of_second = (_category_values(each, resampler, kind, metric) for each in (first, second))
    truth = of_first[0]
    if truth.image_ids != of_second[0].image_ids or truth.source != of_second[0].source:
        raise UserError(f"'{second.label}' was evaluated on other images than '{first.label}': nothing is compared.")
    objects = np.zeros(len(truth.category_ids), dtype=np.int64)
    for (category, _), of_image in truth.annotations.items():
        objects[category] += sum(not annotation["iscrowd"] for annotation in of_image)
    rows = []
    for index, name in enumerate(truth.category_names):
        # [n] and [n, R]
        a, b = of_first[1][:, index], of_second[1][:, index]
        ra, rb = of_first[2][:, index], of_second[2][:, index]
        if np.isnan(a).any() or np.isnan(b).any() or np.isnan(rb.mean(axis=0) - ra.mean(axis=0)).all():
            continue
        found = compare(b, a, rb, ra, len(truth.image_ids))
        bounds = found.on_images
        rows.append([name, int(objects[index]), a.mean(), b.mean(), found.difference, bounds.low, bounds.high])
    return pd.DataFrame(rows, columns=["category", "objects", "first", "second", "difference", "low", "high"])


def _category_values(variant: Variant, resampler: Resampler, kind: str, metric: str) -> tuple[Truth, Array, Array]:
    """Return the ground truth, and a metric in percent by run and category: [n, K], and [n, K, R] on resamples."""
    values, resampled = [], []
    for run in variant.runs:
        matches = read_matches(variant, run, resampler, kind)
        truth = matches.truth
        categories = range(len(truth.category_ids))
        unit = unit_ap(matches)
        values.append([unit.per_category(metric, slice(index, index + 1))[0] for index in categories])
        chunks = []
        for weights in image_weights(len(truth.image_ids), resampler.resamples, resampler.seed):
            found = weighted_ap(matches, weights)
            chunks.append(np.stack([found.per_category(metric, slice(index, index + 1)) for index in categories]))
        resampled.append(np.concatenate(chunks, axis=1))
    return truth, 100 * np.array(values), 100 * np.stack(resampled)


@dataclass
class Predictions:
    """The detections of one run, matched with the objects."""

    variant: Variant
    run: Run
    matches: Matches
    results: list[dict[str, Any]] = field(repr=False)
    """All detections in COCO's result format, in the order that `CategoryMatches.result` refers to."""

    @property
    def truth(self) -> Truth:
        return self.matches.truth


@dataclass(frozen=True)
class Shape:
    """One object or detection on an image."""

    kind: str
    """`found` and `false`: detections with and without an object at IoU 0.5; `duplicate`: of an object that another
    detection has found; `missed`: an object that no detection has found; `object`: any object."""
    image: int
    """Index of the image."""
    category: str
    box: tuple[float, float, float, float]
    """xyxy in pixels of the image."""
    mask: dict[str, Any] | None
    """Run lengths of COCO's format; None where boxes are compared."""
    score: float | None = None
    """Of a detection."""

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def read_predictions(variant: Variant, run: Run, resampler: Resampler, kind: str = "segm") -> Predictions:
    """Return the detections of a run with their outlines; arguments and errors are those of `read_matches`."""
    matches = read_matches(variant, run, resampler, kind)
    path = evaluation_folder(variant.folder(run), variant.evaluation).path / f"{kind}.json"
    return Predictions(variant, run, matches, json.loads(path.read_bytes()))


def pair_of_runs(first: Variant, second: Variant) -> tuple[Run, Run]:
    """Return a run of each variant, with the same seed where there is one."""
    of_second = {run.seed: run for run in second.runs}
    shared = next((run for run in first.runs if run.seed in of_second), first.runs[0])
    return shared, of_second.get(shared.seed, second.runs[0])


def objects_on(predictions: Predictions, image: int) -> list[Shape]:
    """Return all objects on an image, without crowds."""
    truth = predictions.truth
    return [
        _object(predictions, category, image, index, "object")
        for category in range(len(truth.category_ids))
        for index, annotation in enumerate(truth.annotations.get((category, image), []))
        if not annotation["iscrowd"]
    ]


def shapes_on(predictions: Predictions, image: int, score: float = SHOWN_SCORE) -> list[Shape]:
    """Return the detections on an image by score, with what became of them at IoU 0.5, and the missed objects.

    Detections that match a crowd are left out.
    """
    shapes: list[Shape] = []
    for index, category in enumerate(predictions.matches.categories):
        at = np.flatnonzero((category.image == image) & (category.score >= score))
        objects = np.flatnonzero(category.object_image == image)
        found = set(category.object[0, 0, at].tolist())
        for detection in at:
            if not category.ignored[0, 0, detection]:
                kind = "found" if category.true_positive[0, 0, detection] else "false"
                shapes.append(_detection(predictions, index, int(detection), kind))
        for place, each in enumerate(objects.tolist()):
            if category.object_counts[0, each] and each not in found:
                shapes.append(_object(predictions, index, image, place, "missed"))
    return sorted(shapes, key=lambda shape: -(shape.score or 0.0))


def find_failures(predictions: Predictions, score: float = SHOWN_SCORE) -> dict[str, list[Shape]]:
    """Return the failures of a run at IoU 0.5 by kind: `missed`, `false` and `duplicate`.

    Those that stand out come first: missed objects with a large area, and detections with a high score; of each image
    one, before a second one of any image.

    Args:
        predictions: detections of one run.
        score: detections below this score do not count.
    """
    failures: dict[str, list[Shape]] = {"missed": [], "false": [], "duplicate": []}
    for index, category in enumerate(predictions.matches.categories):
        shown = category.score >= score
        hits = category.true_positive[0, 0]
        found = np.zeros(len(category.object_image), dtype=bool)
        found[category.object[0, 0, shown & hits]] = True
        # Objects are sorted by image.
        first = np.searchsorted(category.object_image, category.object_image)
        for each in np.flatnonzero(category.object_counts[0] & ~found).tolist():
            image, place = int(category.object_image[each]), each - int(first[each])
            failures["missed"].append(_object(predictions, index, image, place, "missed"))
        unmatched = np.flatnonzero(shown & ~hits & ~category.ignored[0, 0])
        by_image = unmatched[np.argsort(category.image[unmatched], kind="stable")]
        starts = np.flatnonzero(np.diff(category.image[by_image], prepend=-1))
        for group in np.split(by_image, starts[1:]) if len(by_image) else []:
            overlaps = _overlaps(predictions, index, group)
            for detection, overlap in zip(group.tolist(), overlaps, strict=True):
                kind = "duplicate" if overlap >= THRESHOLDS[0] else "false"
                failures[kind].append(_detection(predictions, index, detection, kind))
    return {kind: _striking_first(shapes) for kind, shapes in failures.items()}


def _striking_first(shapes: list[Shape]) -> list[Shape]:
    ordered = sorted(shapes, key=lambda shape: (-(shape.score or 0.0), -shape.area))
    turn: Counter[int] = Counter()
    turns = []
    for shape in ordered:
        turns.append(turn[shape.image])
        turn[shape.image] += 1
    return [ordered[index] for index in sorted(range(len(ordered)), key=lambda index: turns[index])]


def _overlaps(predictions: Predictions, category: int, detections: Array) -> Array:
    """Return the highest IoU of each detection, all on one image, with an object that is no crowd: [n]."""
    from pycocotools import mask as masks

    truth, kind = predictions.truth, predictions.matches.kind
    image = int(predictions.matches.categories[category].image[detections[0]])
    annotations = truth.annotations.get((category, image), [])
    outlines = [
        outline
        for outline, annotation in zip(truth.outlines(category, image, kind), annotations, strict=True)
        if not annotation["iscrowd"]
    ]
    if not outlines:
        return np.zeros(len(detections))
    own = [_outline(predictions, category, int(detection)) for detection in detections]
    overlaps: Array = masks.iou(own, outlines, [0] * len(outlines)).max(axis=1)
    return overlaps


def _outline(predictions: Predictions, category: int, detection: int) -> Any:
    matches = predictions.matches.categories[category]
    result, image = predictions.results[matches.result[detection]], int(matches.image[detection])
    (outline,) = outlines_of([result], predictions.truth, image, predictions.matches.kind)
    return outline


def _detection(predictions: Predictions, category: int, detection: int, kind: str) -> Shape:
    matches = predictions.matches.categories[category]
    outline = _outline(predictions, category, detection)
    return _shape(predictions, category, int(matches.image[detection]), outline, kind, float(matches.score[detection]))


def _object(predictions: Predictions, category: int, image: int, place: int, kind: str) -> Shape:
    outline = predictions.truth.outlines(category, image, predictions.matches.kind)[place]
    return _shape(predictions, category, image, outline, kind, None)


def _shape(predictions: Predictions, category: int, image: int, outline: Any, kind: str, score: float | None) -> Shape:
    from pycocotools import mask as masks

    is_box = predictions.matches.kind == "bbox"
    x, y, w, h = (float(value) for value in (outline if is_box else masks.toBbox(outline)))
    name = predictions.truth.category_names[category]
    return Shape(kind, image, name, (x, y, x + w, y + h), None if is_box else outline, score)


@dataclass
class ImageScores:
    """How good the predictions of one run are, by image."""

    found: Array
    """[N] objects that are found, mean over the IoU thresholds."""
    detections: Array
    """[N] detections that count."""
    objects: Array
    """[N] objects that count."""

    @property
    def f1(self) -> Array:
        """[N] harmonic mean of precision and recall; 1 for an image without objects and detections."""
        total = self.detections + self.objects
        return np.divide(2 * self.found, total, out=np.ones(len(total)), where=total > 0)


def image_scores(matches: Matches, score: float = SHOWN_SCORE) -> ImageScores:
    """Return how good the predictions are on each image, over all categories and IoU thresholds.

    Args:
        matches: detections of one run.
        score: detections below this score do not count.
    """
    number = len(matches.truth.image_ids)
    found, detections, objects = np.zeros(number), np.zeros(number), np.zeros(number)
    for category in matches.categories:
        shown = category.score >= score
        image = category.image[shown]
        # Of all sizes; what matches a crowd counts neither way.
        hits = category.true_positive[0][:, shown].mean(axis=0)
        found += np.bincount(image, hits, number)
        detections += np.bincount(image, 1 - category.ignored[0][:, shown].mean(axis=0), number)
        objects += np.bincount(category.object_image[category.object_counts[0]], minlength=number)
    return ImageScores(found, detections, objects)
