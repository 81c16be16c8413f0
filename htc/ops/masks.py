"""Mask targets: the part of an object's mask that lies in a box."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.roi_align import roi_align

AT_ONCE = 16
"""Masks that are turned into floats together: of many objects at the network's size they would take gigabytes."""


def crop_masks(masks: Tensor, boxes: Tensor, indices: Tensor, size: int) -> Tensor:
    """Masks as seen through boxes -> float [k, size, size] of 0 and 1.

    masks: [n, h, w] uint8; boxes: [k, 4] in the same frame; indices: [k], the mask of each box. An aligned RoIAlign
    averages the mask over each cell; a cell is in from 0.5 on (Mask R-CNN section 3, the reference's rule).
    """
    if len(boxes) == 0:
        return boxes.new_zeros((0, size, size))
    used, indices = torch.unique(indices, return_inverse=True)
    if len(used) <= AT_ONCE:
        return _crop(masks[used], boxes, indices, size)
    crops = boxes.new_empty((len(boxes), size, size))
    for start in range(0, len(used), AT_ONCE):
        chosen = torch.nonzero((indices >= start) & (indices < start + AT_ONCE)).squeeze(1)
        crops[chosen] = _crop(masks[used[start : start + AT_ONCE]], boxes[chosen], indices[chosen] - start, size)
    return crops


def _crop(masks: Tensor, boxes: Tensor, indices: Tensor, size: int) -> Tensor:
    rois = torch.cat([indices[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, size, 1.0, 0)
    return (crops.squeeze(1) >= 0.5).to(boxes.dtype)
