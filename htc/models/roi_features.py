"""Features of regions of interest, from the pyramid and, with semantic fusion, from the semantic branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.backbone import PYRAMID_STRIDES
from htc.ops.boxes import box_sides
from htc.ops.roi_align import pyramid_roi_align, roi_align

ROI_LEVELS = 4
"""RoIs are pooled from P2 to P5."""
CANONICAL_SIZE = 56
"""RoIs with sides below twice this number of pixels (square root of the area) are pooled from P2."""
SEMANTIC_STRIDE = 8
SEMANTIC_SIZE = 14
"""Cells per side that semantic features are pooled to, before they are averaged to the size of the RoI features."""


def pyramid_levels(rois: Tensor) -> Tensor:
    """Return the pyramid level of each RoI [k, 5] as int64 [k], from 0 for P2 to 3 for P5.

    This is FPN's equation 1, with P2 for RoIs of up to 112 px.
    """
    width, height = box_sides(rois[:, 1:])
    scale = torch.sqrt(width * height)
    return torch.floor(torch.log2(scale / CANONICAL_SIZE + 1e-6)).clamp(0, ROI_LEVELS - 1).long()


class RoIFeatures(nn.Module):
    """RoIAlign of each RoI on its own pyramid level, to [k, channels, size, size].

    With `fuse_semantic`, the RoI's semantic features are pooled as well and added (HTC section 3, "Spatial Contexts
    from Segmentation").
    """

    def __init__(self, size: int, *, fuse_semantic: bool, sampling: int = 0, aligned: bool = True) -> None:
        """Store the settings of RoIAlign.

        Args:
            size: cells per side of the pooled features.
            fuse_semantic: add semantic features.
            sampling: sampling points per side of a cell; 0: as many as the cell has feature cells.
            aligned: shift by half a feature cell.
        """
        super().__init__()
        self.size = size
        self.sampling = sampling
        self.aligned = aligned
        self.fuse_semantic = fuse_semantic

    def forward(self, pyramid: list[Tensor], rois: Tensor, semantic_features: Tensor | None) -> Tensor:
        """Pool features of RoIs.

        Args:
            pyramid: P2..P6, each [B, channels, h, w].
            rois: [k, 5], image index, then xyxy in pixels of the network input.
            semantic_features: [B, channels, H / 8, W / 8], or None without a semantic branch.
        """
        scales = [1 / stride for stride in PYRAMID_STRIDES[:ROI_LEVELS]]
        features = pyramid_roi_align(
            pyramid[:ROI_LEVELS], rois, pyramid_levels(rois), self.size, scales, self.sampling, self.aligned
        )
        if self.fuse_semantic and semantic_features is not None:
            features = features + self._pool_semantic(semantic_features, rois).to(features.dtype)
        return features

    def _pool_semantic(self, semantic_features: Tensor, rois: Tensor) -> Tensor:
        """Pool semantic features to 14 x 14 cells, and average these to `size` x `size`."""
        scale = 1 / SEMANTIC_STRIDE
        factor = SEMANTIC_SIZE // self.size
        if self.sampling > 0:
            # With a fixed number of points, pooling and averaging are one RoIAlign with `factor` times as many points.
            return roi_align(semantic_features, rois, self.size, scale, self.sampling * factor, self.aligned)
        pooled = roi_align(semantic_features, rois, SEMANTIC_SIZE, scale, self.sampling, self.aligned)
        return pooled if factor == 1 else F.avg_pool2d(pooled, factor)
