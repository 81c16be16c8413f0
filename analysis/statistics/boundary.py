"""Overlap of masks that weighs their boundaries: boundary IoU (Cheng et al., CVPR 2021), for boundary AP.

The boundary of a mask is what is closer to its outline than 2 % of the image diagonal. As in the authors' evaluation, a
detection overlaps an object as much as the smaller of mask IoU and boundary IoU says, and a crowd as much as masks do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as masks

from analysis.statistics.truth import Array

DILATION = 0.02
"""Width of the boundary in parts of the image diagonal."""
Outline = dict[str, Any]


def boundary_overlap(
    detections: Sequence[Outline], objects: Sequence[Outline], crowd: Sequence[int], lowest: float
) -> Array:
    """Return the overlap of detections with objects: [detections, objects].

    Masks whose IoU is below `lowest` keep it, although the boundary IoU may be smaller still: most pairs need no
    boundaries then.

    Args:
        detections: encoded masks of the size of the image.
        objects: likewise.
        crowd: 1 for each object that is a crowd, else 0.
        lowest: smallest overlap that matters.
    """
    overlap: Array = masks.iou(list(detections), list(objects), list(crowd))
    needed = (overlap >= lowest) & (np.array(crowd) == 0)
    rows, columns = (np.flatnonzero(needed.any(axis=axis)).tolist() for axis in (1, 0))
    if len(rows):
        own = [boundary(detections[row]) for row in rows]
        others = [boundary_of_object(objects[column]) for column in columns]
        at = np.ix_(rows, columns)
        boundary_iou: Array = masks.iou(own, others, [0] * len(others))
        overlap[at] = np.where(needed[at], np.minimum(overlap[at], boundary_iou), overlap[at])
    return overlap


def boundary_of_object(outline: Outline) -> Outline:
    """Return the boundary of an object, which is kept with its mask, as all runs are compared with it."""
    if "boundary" not in outline:
        outline["boundary"] = boundary(outline)
    kept: Outline = outline["boundary"]
    return kept


def boundary(outline: Outline) -> Outline:
    """Return the boundary of an encoded mask, encoded. What lies outside of the image is not in the mask."""
    import cv2

    height, width = outline["size"]
    reach = boundary_width(height, width)
    x, y, across, down = (int(each) for each in masks.toBbox(outline))
    mask = masks.decode(outline)
    window = (slice(y, y + down), slice(x, x + across))
    padded = cv2.copyMakeBorder(mask[window], 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=reach)
    mask[window] -= inner[1:-1, 1:-1]
    return masks.encode(np.asfortranarray(mask))


def boundary_width(height: int, width: int) -> int:
    """Return the width of a boundary in pixels, at least 1."""
    return max(round(DILATION * math.sqrt(height**2 + width**2)), 1)
