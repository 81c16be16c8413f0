"""RoIAlign (Mask R-CNN section 3), aligned by half a pixel unless told otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool = True) -> Tensor:
    """Pool each RoI to a grid of cells -> [k, channels, size, size], in the dtype of `features`.

    features: [B, channels, h, w]; rois: [k, 5], image index, then xyxy in pixels of the network input; scale: feature
    cells a pixel; sampling: points a side averaged in each cell, 0 for as many as the cell has feature cells; aligned:
    shift by half a cell, so that a pixel's value stands for its centre.
    """
    if aligned and sampling > 0 and features.device.type == "cpu":
        return _roi_align_by_rows(features, rois, size, scale, sampling)
    return torchvision.ops.roi_align(features, rois, (size, size), scale, sampling, aligned)


def _roi_align_by_rows(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """The same values as weighted sums of rows of a table, one row a feature cell.

    For training on a CPU: there torchvision's backward pass runs on one thread and strides over the channels; this
    one's is 3 to 6 times as quick (benchmarks/roi_align.py).
    """
    batch, channels, height, width = features.shape
    if len(rois) == 0:
        return features.new_zeros((0, channels, size, size)) + features.sum() * 0
    points = size * sampling
    boxes = rois[:, 1:].float() * scale - 0.5
    rows, row_weights = _neighbours(boxes[:, 1], boxes[:, 3], points, height)
    columns, column_weights = _neighbours(boxes[:, 0], boxes[:, 2], points, width)
    first = rois[:, 0].long() * (height * width)
    cells = first.view(-1, 1, 1, 1, 1) + rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling**2

    def by_cell(x: Tensor) -> Tensor:
        grouped = x.view(-1, size, sampling, size, sampling, 4).transpose(2, 3)
        return grouped.reshape(len(rois) * size * size, sampling * sampling * 4)

    table = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    pooled = F.embedding_bag(by_cell(cells), table, per_sample_weights=by_cell(weights).to(table.dtype), mode="sum")
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _neighbours(low: Tensor, high: Tensor, points: int, length: int) -> tuple[Tensor, Tensor]:
    """The two cells next to each of `points` even positions from `low` to `high`, and their bilinear weights.

    low, high: [k] in cells -> indices int64 and weights float32, both [k, points, 2]. Positions more than a cell off
    the map weigh nothing; those within it take the border's value.
    """
    fractions = (torch.arange(points, device=low.device) + 0.5) / points
    positions = low[:, None] + fractions * (high - low)[:, None]
    on_map = (positions >= -1) & (positions <= length)
    positions = positions.clamp(0, length - 1)
    left = positions.floor()
    share = positions - left
    indices = torch.stack([left, (left + 1).clamp(max=length - 1)], dim=-1).long()
    return indices, torch.stack([1 - share, share], dim=-1) * on_map[..., None]
