"""The error breakdown in plain loops, one detection at a time: slow, and independent of `analysis.statistics.errors`.

Written after the definitions of TIDE (Bolya et al., ECCV 2020) and `tidecv` 1.0.1, but for two points in which ours are
those of COCO: the recalls at which precision is read, and the order of equal scores (by image, then as in the file).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as masks

from analysis.statistics.truth import Truth


@dataclass
class Detection:
    place: tuple[int, int]
    """Image, and rank on it."""
    category: int
    score: float
    state: str = "wrong"
    """`right`, `wrong` or `ignored`."""
    error: str = ""
    object: Object | None = None
    """What a repair makes it find."""


@dataclass
class Object:
    category: int
    taken: bool = False
    claimed_by: Detection | None = None


def plain_errors(
    results: list[dict[str, Any]], truth: Truth, kind: str
) -> tuple[dict[str, int], float, dict[str, float]]:
    """Return the number of errors of each kind, AP50, and what each repair gains, in 0..1."""
    detections: list[Detection] = []
    objects: list[Object] = []
    for image in range(len(truth.image_ids)):
        of_image, there = _image(results, truth, kind, image)
        detections += of_image
        objects += there
    missed = [each for each in objects if not each.taken and each.claimed_by is None]
    counts = {"missed": len(missed)}
    kinds = ("classification", "localization", "both", "duplicate", "background")
    for error in kinds:
        counts[error] = sum(each.error == error for each in detections)
    ap = _mean_ap(detections, objects, "")
    gains = {error: _mean_ap(detections, objects, error) - ap for error in kinds}
    gains["missed"] = _mean_ap(detections, [each for each in objects if each not in missed], "") - ap
    gains["false negatives"] = _mean_ap(detections, [each for each in objects if each.taken], "") - ap
    gains["false positives"] = _mean_ap(detections, objects, "false positives") - ap
    return counts, ap, gains


def _image(results: list[dict[str, Any]], truth: Truth, kind: str, image: int) -> tuple[list[Detection], list[Object]]:
    known = [
        each
        for each in results
        if each["image_id"] == truth.image_ids[image] and each["category_id"] in truth.category_ids
    ]
    best = sorted(known, key=lambda each: -each["score"])[:100]
    shape = "bbox" if kind == "bbox" else "segmentation"
    objects: list[Object] = []
    outlines: list[Any] = []
    crowds: list[tuple[int, Any]] = []
    for category in range(len(truth.category_ids)):
        found = truth.annotations.get((category, image), [])
        for annotation, outline in zip(found, truth.outlines(category, image, kind), strict=True):
            if annotation["iscrowd"]:
                crowds.append((category, outline))
            else:
                objects.append(Object(category))
                outlines.append(outline)
    detections = []
    overlaps: list[list[float]] = []
    for rank, each in enumerate(best):
        detection = Detection((image, rank), truth.category_ids.index(each["category_id"]), each["score"])
        detections.append(detection)
        overlaps.append([_overlap(each[shape], outline, 0) for outline in outlines])
        own = [index for index, other in enumerate(objects) if other.category == detection.category and not other.taken]
        nearest = max(own, key=lambda index: overlaps[-1][index], default=None)
        if nearest is not None and overlaps[-1][nearest] >= 0.5:
            detection.state, objects[nearest].taken = "right", True
        elif any(cat == detection.category and _overlap(each[shape], area, 1) > 0.5 for cat, area in crowds):
            detection.state = "ignored"
    for detection, overlap in zip(detections, overlaps, strict=True):
        if detection.state != "right":
            _name_error(detection, objects, overlap)
    return detections, objects


def _name_error(detection: Detection, objects: list[Object], overlap: list[float]) -> None:
    own = [(iou, index) for index, iou in enumerate(overlap) if objects[index].category == detection.category]
    other = [(iou, index) for index, iou in enumerate(overlap) if objects[index].category != detection.category]
    best_own, best_other = max((iou for iou, _ in own), default=0.0), max((iou for iou, _ in other), default=0.0)
    target = None
    if not objects:
        detection.error = "background"
    elif 0.1 <= best_own <= 0.5:
        detection.error = "localization"
        target = objects[next(index for iou, index in own if iou == best_own)]
    elif best_other >= 0.5:
        detection.error = "classification"
        target = objects[next(index for iou, index in other if iou == best_other)]
    elif any(iou >= 0.5 and objects[index].taken for iou, index in own):
        detection.error = "duplicate"
    elif max(overlap) <= 0.1:
        detection.error = "background"
    else:
        detection.error = "both"
    # Detections come from the highest score on: the first one that a repair leads to a free object has it.
    if target is not None and not target.taken and target.claimed_by is None:
        target.claimed_by, detection.object = detection, target


def _overlap(first: Any, second: Any, crowd: int) -> float:
    return float(masks.iou([first], [second], [crowd])[0, 0])


def _mean_ap(detections: list[Detection], objects: list[Object], repair: str) -> float:
    points: dict[int, list[tuple[tuple[float, tuple[int, int]], bool]]] = defaultdict(list)
    number: dict[int, int] = defaultdict(int)
    for each in objects:
        number[each.category] += 1
    for detection in detections:
        key = (-detection.score, detection.place)
        if repair and detection.error == repair:
            if detection.object is not None:
                points[detection.object.category].append((key, True))
        elif detection.state != "ignored":
            right = detection.state == "right"
            if repair == "false positives":
                key = (-float(right), detection.place)
            points[detection.category].append((key, right))
    categories = {*points, *number}
    return sum(_ap(points[each], number[each]) for each in categories) / len(categories) if categories else 0.0


def _ap(points: list[tuple[tuple[float, tuple[int, int]], bool]], objects: int) -> float:
    if not objects:
        return 0.0
    curve, right = [], 0
    for rank, (_, is_right) in enumerate(sorted(points), 1):
        right += is_right
        curve.append((right / objects, right / rank))
    read = [max((p for recall, p in curve if recall >= level), default=0.0) for level in np.linspace(0.0, 1.0, 101)]
    return sum(read) / 101
