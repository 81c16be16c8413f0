"""Mask targets: the part of an object's mask that lies in a box."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align


def crop_masks(masks: Tensor, boxes: Tensor, indices: Tensor, size: int) -> Tensor:
    """Masks as seen through boxes -> float [k, size, size] of 0 and 1.

    masks: [n, h, w] uint8; boxes: [k, 4] in the same frame; indices: [k], the mask of each box. An aligned RoIAlign
    averages the mask over each cell; a cell is in from 0.5 on (Mask R-CNN section 3, the reference's rule).
    """
    if len(boxes) == 0:
        return boxes.new_zeros((0, size, size))
    used, indices = torch.unique(indices, return_inverse=True)
    rois = torch.cat([indices[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[used][:, None].to(boxes.dtype), rois, (size, size), 1.0, 0, aligned=True)
    return (crops.squeeze(1) >= 0.5).to(boxes.dtype)
