"""RoIAlign (Mask R-CNN section 3), aligned by half a pixel unless told otherwise."""

from __future__ import annotations

import torchvision
from torch import Tensor

from htc.ops.roi_align_cpu import roi_align_cpu


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool = True) -> Tensor:
    """Pool each RoI to a grid of cells -> [k, channels, size, size], in the dtype of `features`.

    features: [B, channels, h, w]; rois: [k, 5], image index, then xyxy in pixels of the network input; scale: feature
    cells a pixel; sampling: points a side averaged in each cell, 0 for as many as the cell has feature cells; aligned:
    shift by half a cell, so that a pixel's value stands for its centre.
    """
    if aligned and sampling > 0 and features.device.type == "cpu":
        return roi_align_cpu(features, rois, size, scale, sampling)
    return torchvision.ops.roi_align(features, rois, (size, size), scale, sampling, aligned)
