"""Features of regions of interest, from the pyramid and, where they are fused, from the semantic branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.backbone import PYRAMID_STRIDES
from htc.ops.boxes import box_sides
from htc.ops.roi_align import pyramid_roi_align, roi_align

ROI_LEVELS = 4
CANONICAL_SIZE = 56
SEMANTIC_STRIDE = 8
SEMANTIC_SIZE = 14


def pyramid_levels(rois: Tensor) -> Tensor:
    """Pyramid level of each RoI [k, 5], 0 for P2 to 3 for P5 -> int64 [k] (FPN equation 1, with P2 up to 112 px)."""
    width, height = box_sides(rois[:, 1:])
    scale = torch.sqrt(width * height)
    return torch.floor(torch.log2(scale / CANONICAL_SIZE + 1e-6)).clamp(0, ROI_LEVELS - 1).long()


class RoIFeatures(nn.Module):
    """RoIAlign on each RoI's own level -> [k, channels, size, size], `aligned` by half a pixel.

    `sampling` points a side are averaged in each cell, 0 for as many as it has pixels. With `fuse_semantic`, the
    RoI's semantic features are pooled as well and added (HTC section 3.3).
    """

    def __init__(self, size: int, *, fuse_semantic: bool, sampling: int = 0, aligned: bool = True) -> None:
        super().__init__()
        self.size = size
        self.sampling = sampling
        self.aligned = aligned
        self.fuse_semantic = fuse_semantic

    def forward(self, pyramid: list[Tensor], rois: Tensor, semantic_features: Tensor | None) -> Tensor:
        """`rois` [k, 5]: image index, then xyxy in pixels of the network input."""
        scales = [1 / stride for stride in PYRAMID_STRIDES[:ROI_LEVELS]]
        features = pyramid_roi_align(
            pyramid[:ROI_LEVELS], rois, pyramid_levels(rois), self.size, scales, self.sampling, self.aligned
        )
        if self.fuse_semantic and semantic_features is not None:
            features = features + self._semantic(semantic_features, rois).to(features.dtype)
        return features

    def _semantic(self, semantic_features: Tensor, rois: Tensor) -> Tensor:
        """The RoI's semantic features, as the mean of 2x2 cells where the RoI's own have half the size."""
        size, sampling, scale = self.size, self.sampling, 1 / SEMANTIC_STRIDE
        side = SEMANTIC_SIZE // size
        if sampling > 0:  # The same points, averaged at once.
            return roi_align(semantic_features, rois, size, scale, sampling * side, self.aligned)
        pooled = roi_align(semantic_features, rois, SEMANTIC_SIZE, scale, sampling, self.aligned)
        return pooled if side == 1 else F.avg_pool2d(pooled, side)
