"""RoIAlign (Mask R-CNN section 3), aligned by half a pixel unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor

from htc.ops.roi_align_cpu import pool_map, pool_pyramid


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool = True) -> Tensor:
    """Pool each RoI to a grid of cells -> [k, channels, size, size], in the dtype of `features`.

    features: [B, channels, h, w]; rois: [k, 5], image index, then xyxy in pixels of the network input; scale: feature
    cells a pixel; sampling: points a side averaged in each cell, 0 for as many as the cell has feature cells; aligned:
    shift by half a cell, so that a pixel's value stands for its centre.
    """
    if aligned and sampling > 0 and features.device.type == "cpu":
        return pool_map(features, rois, size, scale, sampling)
    if sampling > 0:
        return torchvision.ops.roi_align(features, rois, (size, size), scale, sampling, aligned)
    # The wrapper's deterministic form on a GPU takes every row and column of the map as a point: terabytes.
    pooled: Tensor = torch.ops.torchvision.roi_align(features, rois, scale, size, size, sampling, aligned)
    return pooled


def pyramid_roi_align(
    pyramid: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    size: int,
    scales: Sequence[float],
    sampling: int,
    aligned: bool = True,
) -> Tensor:
    """`roi_align` of each RoI on its own level of a pyramid -> [k, channels, size, size].

    pyramid: a map [B, channels, h, w] and a scale for each level; levels: int64 [k], indices of these.
    """
    if aligned and sampling > 0 and pyramid[0].device.type == "cpu":
        return pool_pyramid(pyramid, rois, levels, size, scales, sampling)
    features = pyramid[0].new_zeros((len(rois), pyramid[0].shape[1], size, size))
    chosen = [torch.nonzero(levels == i).squeeze(1) for i in range(len(pyramid))]
    pooled = [
        roi_align(level, rois[own], size, scale, sampling, aligned).to(features.dtype)
        for level, own, scale in zip(pyramid, chosen, scales, strict=True)
    ]
    return features.index_copy(0, torch.cat(chosen), torch.cat(pooled))
