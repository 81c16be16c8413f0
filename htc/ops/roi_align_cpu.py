"""RoIAlign for training on a CPU, where torchvision's backward pass runs on one thread and strides over the channels.

Bilinear interpolation at the points of a grid is linear in the features and separable: one set of weights for the
rows of the map, one for its columns. Small maps are pooled by two matrix products with these weights, large ones and
pyramids by weighted sums of the four cells next to each point (ratios to torchvision: benchmarks/roi_align.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Times `size * sampling**2`, the cells of the largest map for which matrix products pay (measured on two cores): they
# touch all rows of the map for each pooled row, weighted sums four cells for each sampled point.
SMALL_MAP = 48


def pool_map(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """`htc.ops.roi_align.roi_align`, aligned, for sampling > 0: the same values but for the order of sums."""
    height, width = features.shape[-2:]
    if len(rois) > 0 and height * width <= SMALL_MAP * size * sampling**2:
        return _by_products(features, rois, size, scale, sampling)
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return pool_pyramid([features], rois, levels, size, [scale], sampling)


def pool_pyramid(
    pyramid: Sequence[Tensor], rois: Tensor, levels: Tensor, size: int, scales: Sequence[float], sampling: int
) -> Tensor:
    """`htc.ops.roi_align.pyramid_roi_align`, aligned, for sampling > 0: the same values but for the order of sums.

    Weighted sums of the rows of a table that has one row for each cell of each level.
    """
    channels = pyramid[0].shape[1]
    if len(rois) == 0:
        zero = torch.stack([level.sum() for level in pyramid]).sum() * 0
        return pyramid[0].new_zeros((0, channels, size, size)) + zero
    sides = torch.tensor([level.shape[:1:-1] for level in pyramid])  # widths, heights
    cells = len(pyramid[0]) * sides.prod(1)
    own_sides = sides[levels]
    widths, heights = own_sides.unbind(1)
    boxes = rois[:, 1:].float() * torch.tensor(scales)[levels, None] - 0.5
    neighbours, shares = _neighbours(boxes, size * sampling, own_sides)
    (column_cells, row_cells), (column_weights, row_weights) = neighbours.unbind(1), shares.unbind(1)
    first = (cells.cumsum(0) - cells)[levels] + rois[:, 0].long() * heights * widths
    rows = first[:, None, None] + row_cells * widths[:, None, None]
    indices = rows[:, :, None, :, None] + column_cells[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling**2

    def by_cell(x: Tensor) -> Tensor:
        grouped = x.view(-1, size, sampling, size, sampling, 4).transpose(2, 3)
        return grouped.reshape(len(rois) * size * size, sampling * sampling * 4)

    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in pyramid])
    pooled = F.embedding_bag(by_cell(indices), table, per_sample_weights=by_cell(weights).to(table.dtype), mode="sum")
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _by_products(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """Rows first, for all RoIs of an image at once, then each RoI's columns."""
    batch, channels, height, width = features.shape
    boxes = rois[:, 1:].float() * scale - 0.5
    cell_weights = _cell_weights(boxes, size, sampling, torch.tensor([width, height])).to(features.dtype)
    column_weights, row_weights = cell_weights[:, 0, :, :width], cell_weights[:, 1, :, :height]
    # Every image gets as many places for RoIs as the fullest one needs.
    images = rois[:, 0].long()
    members = F.one_hot(images, batch)
    ranks = (members.cumsum(0) * members).sum(1) - 1
    most = int(members.sum(0).max())
    places = images * most + ranks
    placed = row_weights.new_zeros((batch * most, size, height)).index_copy(0, places, row_weights)
    table = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    strips = torch.bmm(placed.view(batch, most * size, height), table).view(batch * most, size, width, channels)
    pooled = torch.matmul(column_weights[:, None], strips.index_select(0, places))
    return pooled.permute(0, 3, 1, 2)


def _cell_weights(boxes: Tensor, size: int, sampling: int, sides: Tensor) -> Tensor:
    """What each column and row of a map contributes to each of a RoI's pooled ones -> [k, 2, size, the longer side].

    boxes: [k, 4], xyxy in cells; sides: [2], width and height of the map.
    """
    positions, weights = _positions(boxes, size * sampling, sides)
    length = int(sides.max())
    shares = (1 - (positions[..., None] - torch.arange(length)).abs()).clamp(min=0) * weights[..., None]
    return shares.view(len(boxes), 2, size, sampling, length).mean(3)


def _neighbours(boxes: Tensor, points: int, sides: Tensor) -> tuple[Tensor, Tensor]:
    """The two columns and the two rows next to each position, and their bilinear weights.

    -> int64 and float32, both [k, 2, points, 2]; boxes and sides as of `_positions`.
    """
    positions, weights = _positions(boxes, points, sides)
    left = positions.floor()
    share = positions - left
    cells = torch.stack([left, torch.minimum(left + 1, sides[..., None] - 1)], dim=-1).long()
    return cells, torch.stack([1 - share, share], dim=-1) * weights[..., None]


def _positions(boxes: Tensor, points: int, sides: Tensor) -> tuple[Tensor, Tensor]:
    """`points` even positions along x and y of each box -> places on the map and their weights, [k, 2, points].

    boxes: [k, 4], xyxy in cells; sides: [2] or [k, 2], width and height of the map. Positions more than a cell off the
    map weigh nothing; those within it take the border's value.
    """
    fractions = (torch.arange(points) + 0.5) / points
    low, high = boxes.view(-1, 2, 2, 1).unbind(1)
    positions = low + fractions * (high - low)
    limits = sides[..., None]
    on_map = (positions >= -1) & (positions <= limits)
    return torch.minimum(positions.clamp(min=0), limits - 1), on_map.to(positions.dtype)
