"""Mask targets: the part of an object's mask that lies inside a box."""

from __future__ import annotations

import torch
from torch import Tensor

from htc.ops.roi_align import roi_align

MASKS_PER_CHUNK = 16
"""Masks that are converted to float together: converting all masks of a crowded image at once would take gigabytes."""


def crop_masks(masks: Tensor, boxes: Tensor, indices: Tensor, size: int) -> Tensor:
    """Crop masks to boxes and resample each crop to `size` x `size` cells.

    An aligned RoIAlign averages the mask over each cell; a cell is 1 where the average is at least 0.5 (Mask R-CNN
    section 3, with the rounding of the reference implementation).

    Args:
        masks: [n, h, w] uint8, 0 or 1.
        boxes: [k, 4] xyxy, in the frame of the masks.
        indices: [k] int64, the mask that each box crops.
        size: cells per side of a crop.

    Returns:
        [k, size, size] of 0 and 1, in the dtype of `boxes`.
    """
    if len(boxes) == 0:
        return boxes.new_zeros((0, size, size))
    used, indices = torch.unique(indices, return_inverse=True)
    if len(used) <= MASKS_PER_CHUNK:
        return _crop_chunk(masks[used], boxes, indices, size)
    crops = boxes.new_empty((len(boxes), size, size))
    for start in range(0, len(used), MASKS_PER_CHUNK):
        end = start + MASKS_PER_CHUNK
        chosen = torch.nonzero((indices >= start) & (indices < end)).squeeze(1)
        crops[chosen] = _crop_chunk(masks[used[start:end]], boxes[chosen], indices[chosen] - start, size)
    return crops


def _crop_chunk(masks: Tensor, boxes: Tensor, indices: Tensor, size: int) -> Tensor:
    rois = torch.cat([indices[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, size, 1.0, 0)
    return (crops.squeeze(1) >= 0.5).to(boxes.dtype)
