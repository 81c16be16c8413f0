"""Ground truth that pycocotools can evaluate: it gets the same repairs as in training and is otherwise unchanged."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
SHORTEST_POLYGON = 6
"""Fewest coordinates of a polygon with an area; pycocotools would read four numbers as a box."""


def is_polygon(coordinates: list[Any]) -> bool:
    """Return whether a list of coordinates has the length of a polygon: pairs, and at least three of them."""
    return len(coordinates) >= SHORTEST_POLYGON and len(coordinates) % 2 == 0


def repair_ground_truth(content: dict[str, Any], source: str) -> None:
    """Repair in place what makes pycocotools fail or count wrong, and log how many annotations are dropped.

    Annotations without an outline are dropped. Polygons of fewer than three points and points far outside of the image
    are treated as in training. A missing `iscrowd` becomes 0. If an annotation has the id 0, which means "no match" to
    pycocotools, all annotations are renumbered. The annotations of COCO itself do not change.

    Args:
        content: The parsed annotation file, which `htc.data.coco.reader` has accepted.
        source: Name of the file in the log.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    kept = []
    for annotation in content["annotations"]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
            polygons = [_clip(polygon, sizes[annotation["image_id"]]) for polygon in polygons]
            annotation["segmentation"] = segmentation = polygons
        if segmentation:
            kept.append(annotation)
        annotation.setdefault("iscrowd", 0)
    dropped = len(content["annotations"]) - len(kept)
    content["annotations"] = kept
    if any(annotation["id"] == 0 for annotation in kept):
        for number, annotation in enumerate(kept, 1):
            annotation["id"] = number
    if dropped:
        logger.warning("%s: annotations without an outline: %d, not used in the evaluation.", source, dropped)


def _clip(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """Clip points to at most one image size outside of the image of `size` (width, height), as the reader does."""
    if -min(size) <= min(polygon) and max(polygon) <= 2 * min(size):
        return polygon
    limit = np.array(size)
    clipped: list[float] = np.clip(np.reshape(polygon, (-1, 2)), -limit, 2 * limit).ravel().tolist()
    return clipped
