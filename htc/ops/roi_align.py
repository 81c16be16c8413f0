"""RoIAlign (Mask R-CNN section 3), aligned by half a pixel by default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor

from htc.ops.roi_align_cpu import pool_map, pool_pyramid


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool = True) -> Tensor:
    """Pool each RoI to a grid of `size` x `size` output cells.

    Args:
        features: [B, channels, h, w].
        rois: [k, 5], image index, then xyxy in pixels of the network input.
        size: output cells per side.
        scale: feature cells per pixel, 1 / stride.
        sampling: sampling points per side of an output cell, which are averaged; 0: as many as the output cell covers
            feature cells.
        aligned: shift by half a feature cell, so that a feature's position is the centre of its cell.

    Returns:
        [k, channels, size, size], in the dtype of `features`.
    """
    if aligned and sampling > 0 and features.device.type == "cpu":
        return pool_map(features, rois, size, scale, sampling)
    if sampling > 0:
        return torchvision.ops.roi_align(features, rois, (size, size), scale, sampling, aligned)
    # On a GPU, torchvision's deterministic implementation samples at every row and column of the map if sampling is 0,
    # which takes terabytes. The operator itself is called instead.
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
    """Pool each RoI from its own level of a pyramid, as `roi_align` does.

    Args:
        pyramid: one map [B, channels, h, w] per level.
        rois: [k, 5], image index, then xyxy in pixels of the network input.
        levels: [k] int64, index into `pyramid` for each RoI.
        size: output cells per side.
        scales: feature cells per pixel of each level.
        sampling: sampling points per side of an output cell, as in `roi_align`.
        aligned: shift by half a feature cell, as in `roi_align`.

    Returns:
        [k, channels, size, size], in the dtype of the first level.
    """
    if aligned and sampling > 0 and pyramid[0].device.type == "cpu":
        return pool_pyramid(pyramid, rois, levels, size, scales, sampling)
    features = pyramid[0].new_zeros((len(rois), pyramid[0].shape[1], size, size))
    rois_of_levels = [torch.nonzero(levels == i).squeeze(1) for i in range(len(pyramid))]
    pooled = [
        roi_align(level, rois[indices], size, scale, sampling, aligned).to(features.dtype)
        for level, indices, scale in zip(pyramid, rois_of_levels, scales, strict=True)
    ]
    return features.index_copy(0, torch.cat(rois_of_levels), torch.cat(pooled))
