"""Ground truth as pycocotools can evaluate it: the same repairs as training's, and nothing else changed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from htc.data.coco.rows import SHORTEST_POLYGON

logger = logging.getLogger(__name__)


def repair_ground_truth(content: dict[str, Any], source: str) -> None:
    """Repair in place what makes pycocotools fail or count wrong; what is left out is said in the log.

    content: of an annotation file that `htc.data.coco.reader` has accepted. An annotation without an outline is left
    out, a polygon of fewer than three points and far points outside of the image are treated as in training, `iscrowd`
    is 0 where it is missing, and annotations are numbered anew where one has the id 0, which pycocotools takes for
    "no match". What COCO's own files hold stays as it is.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    kept = []
    for annotation in content["annotations"]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            mended = [polygon for polygon in segmentation if len(polygon) >= SHORTEST_POLYGON and len(polygon) % 2 == 0]
            mended = [_within(polygon, sizes[annotation["image_id"]]) for polygon in mended]
            annotation["segmentation"] = segmentation = mended
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


def _within(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """Clip points to at most one image size outside the image of `size` (width, height), as the reader does."""
    if -min(size) <= min(polygon) and max(polygon) <= 2 * min(size):
        return polygon
    limit = np.array(size)
    near: list[float] = np.clip(np.reshape(polygon, (-1, 2)), -limit, 2 * limit).ravel().tolist()
    return near
