"""RoIAlign for training on a CPU, where torchvision's backward pass runs on one thread and strides over the channels.

Bilinear interpolation at the points of a grid is linear in the features and separable: one set of weights for the
rows of the map, one for its columns. Small maps are pooled by two matrix products with these weights, large ones by
weighted sums of the four cells next to each point (ratios to torchvision: benchmarks/roi_align.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Maps of up to this many cells for each sampled point of a RoI's column go through matrix products (measured).
SMALL_MAP = 48


def roi_align_cpu(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """`htc.ops.roi_align.roi_align` for sampling > 0, aligned: the same values but for the order of sums."""
    height, width = features.shape[-2:]
    if len(rois) == 0:
        return features.new_zeros((0, features.shape[1], size, size)) + features.sum() * 0
    boxes = rois[:, 1:].float() * scale - 0.5
    points = size * sampling
    rows = _positions(boxes[:, 1], boxes[:, 3], points, height)
    columns = _positions(boxes[:, 0], boxes[:, 2], points, width)
    images = rois[:, 0].long()
    pool = _by_products if height * width <= SMALL_MAP * points * sampling else _by_neighbours
    return pool(features, images, rows, columns, size)


def _positions(low: Tensor, high: Tensor, points: int, length: int) -> tuple[Tensor, Tensor]:
    """`points` even positions from `low` to `high` [k], in cells -> positions on the map and their weights, [k, points].

    Positions more than a cell off the map weigh nothing; those within it take the border's value.
    """
    fractions = (torch.arange(points) + 0.5) / points
    positions = low[:, None] + fractions * (high - low)[:, None]
    on_map = (positions >= -1) & (positions <= length)
    return positions.clamp(0, length - 1), on_map.to(positions.dtype)


def _by_products(
    features: Tensor, images: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], size: int
) -> Tensor:
    """Rows first, for all RoIs of an image at once, then each RoI's columns."""
    batch, channels, height, width = features.shape
    row_weights = _cell_weights(rows, size, height).to(features.dtype)
    column_weights = _cell_weights(columns, size, width).to(features.dtype)
    # Every image gets as many places for RoIs as the fullest one needs.
    members = F.one_hot(images, batch)
    ranks = (members.cumsum(0) * members).sum(1) - 1
    most = int(members.sum(0).max())
    places = images * most + ranks
    placed = row_weights.new_zeros((batch * most, size, height)).index_copy(0, places, row_weights)
    table = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    strips = torch.bmm(placed.view(batch, most * size, height), table).view(batch * most, size, width, channels)
    pooled = torch.matmul(column_weights[:, None], strips.index_select(0, places))
    return pooled.permute(0, 3, 1, 2)


def _cell_weights(positions: tuple[Tensor, Tensor], size: int, length: int) -> Tensor:
    """What each cell of the map contributes to each pooled cell along one side -> [k, size, length]."""
    at, weights = positions
    shares = (1 - (at[..., None] - torch.arange(length)).abs()).clamp(min=0) * weights[..., None]
    return shares.view(len(at), size, -1, length).mean(2)


def _by_neighbours(
    features: Tensor, images: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], size: int
) -> Tensor:
    """Weighted sums of the rows of a table that has one row for each cell of the map."""
    batch, channels, height, width = features.shape
    k, points = rows[0].shape
    sampling = points // size
    row_cells, row_weights = _neighbours(rows, height)
    column_cells, column_weights = _neighbours(columns, width)
    first = (images * (height * width)).view(-1, 1, 1, 1, 1)
    cells = first + row_cells[:, :, None, :, None] * width + column_cells[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling**2

    def by_cell(x: Tensor) -> Tensor:
        grouped = x.view(-1, size, sampling, size, sampling, 4).transpose(2, 3)
        return grouped.reshape(k * size * size, sampling * sampling * 4)

    table = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    pooled = F.embedding_bag(by_cell(cells), table, per_sample_weights=by_cell(weights).to(table.dtype), mode="sum")
    return pooled.view(k, size, size, channels).permute(0, 3, 1, 2)


def _neighbours(positions: tuple[Tensor, Tensor], length: int) -> tuple[Tensor, Tensor]:
    """The two cells next to each position, and their bilinear weights -> int64 and float32 [k, points, 2]."""
    at, weights = positions
    left = at.floor()
    share = at - left
    cells = torch.stack([left, (left + 1).clamp(max=length - 1)], dim=-1).long()
    return cells, torch.stack([1 - share, share], dim=-1) * weights[..., None]
