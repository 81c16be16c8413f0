"""RoIAlign for training on a CPU, where torchvision's backward pass is slow: one thread, strided over the channels.

Bilinear interpolation at the points of a grid is linear in the features and separable into weights of the map's rows
and weights of its columns. Small maps are pooled by two matrix products with these weights. Large maps and pyramids
are pooled by weighted sums of the four cells next to each sampling point. `benchmarks/roi_align.py` measures both
against torchvision. All functions here implement `aligned=True` for `sampling` > 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_MAP_FACTOR = 48
"""Matrix products are used for maps of up to this many cells times `size * sampling**2` (measured on two cores).

A matrix product reads all rows of the map for each pooled row; a weighted sum reads four cells per sampling point.
"""


def pool_map(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """Pool as `htc.ops.roi_align.roi_align` does; only the order of summation differs.

    Args:
        features: [B, channels, h, w].
        rois: [k, 5], image index first, then xyxy in pixels of the network input.
        size: height and width of the result in cells.
        scale: size of the features relative to the network input.
        sampling: sampling points per side of each cell, 1 or more.

    Returns:
        [k, channels, size, size].
    """
    height, width = features.shape[-2:]
    if len(rois) > 0 and height * width <= SMALL_MAP_FACTOR * size * sampling**2:
        return _by_products(features, rois, size, scale, sampling)
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return pool_pyramid([features], rois, levels, size, [scale], sampling)


def pool_pyramid(
    pyramid: Sequence[Tensor], rois: Tensor, levels: Tensor, size: int, scales: Sequence[float], sampling: int
) -> Tensor:
    """Pool as `htc.ops.roi_align.pyramid_roi_align` does; only the order of summation differs.

    The features of all cells of all levels are the rows of one table; each output cell is a weighted sum of its rows.

    Args:
        pyramid: levels [B, channels, h, w].
        rois: [k, 5], image index first, then xyxy in pixels of the network input.
        levels: [k] int64, the level of each RoI.
        size: height and width of the result in cells.
        scales: size of each level relative to the network input.
        sampling: sampling points per side of each cell, 1 or more.

    Returns:
        [k, channels, size, size].
    """
    channels = pyramid[0].shape[1]
    if len(rois) == 0:
        zero = torch.stack([level.sum() for level in pyramid]).sum() * 0
        return pyramid[0].new_zeros((0, channels, size, size)) + zero
    level_sides = torch.tensor([level.shape[:1:-1] for level in pyramid])  # [levels, 2]: width, height
    cells = len(pyramid[0]) * level_sides.prod(1)
    sides = level_sides[levels]
    widths, heights = sides.unbind(1)
    boxes = rois[:, 1:].float() * torch.tensor(scales)[levels, None] - 0.5
    neighbours, neighbour_weights = _neighbours(boxes, size * sampling, sides)
    column_cells, row_cells = neighbours.unbind(1)
    column_weights, row_weights = neighbour_weights.unbind(1)
    # Row of the table that holds the first cell of the RoI's image and level.
    first_cell = (cells.cumsum(0) - cells)[levels] + rois[:, 0].long() * heights * widths
    row_starts = first_cell[:, None, None] + row_cells * widths[:, None, None]
    indices = row_starts[:, :, None, :, None] + column_cells[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling**2

    def by_cell(x: Tensor) -> Tensor:
        """Group the neighbours of all sampling points of an output cell: [output cells, sampling**2 * 4]."""
        grouped = x.view(-1, size, sampling, size, sampling, 4).transpose(2, 3)
        return grouped.reshape(len(rois) * size * size, sampling * sampling * 4)

    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in pyramid])
    pooled = F.embedding_bag(by_cell(indices), table, per_sample_weights=by_cell(weights).to(table.dtype), mode="sum")
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _by_products(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """Pool by matrix products: the rows for all RoIs of an image at once, then the columns of each RoI."""
    batch, channels, height, width = features.shape
    boxes = rois[:, 1:].float() * scale - 0.5
    cell_weights = _cell_weights(boxes, size, sampling, torch.tensor([width, height])).to(features.dtype)
    column_weights, row_weights = cell_weights[:, 0, :, :width], cell_weights[:, 1, :, :height]
    # The batched product needs the same number of slots per image: the largest number of RoIs of any image.
    images = rois[:, 0].long()
    one_hot = F.one_hot(images, batch)
    index_in_image = (one_hot.cumsum(0) * one_hot).sum(1) - 1
    slots_per_image = int(one_hot.sum(0).max())
    num_slots = batch * slots_per_image
    slots = images * slots_per_image + index_in_image
    slot_weights = row_weights.new_zeros((num_slots, size, height)).index_copy(0, slots, row_weights)
    table = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    pooled_rows = torch.bmm(slot_weights.view(batch, slots_per_image * size, height), table)
    pooled_rows = pooled_rows.view(num_slots, size, width, channels)
    pooled = torch.matmul(column_weights[:, None], pooled_rows.index_select(0, slots))
    return pooled.permute(0, 3, 1, 2)


def _cell_weights(boxes: Tensor, size: int, sampling: int, sides: Tensor) -> Tensor:
    """Return the weight of each column and each row of a map in each pooled column and row of a RoI.

    Args:
        boxes: [k, 4] xyxy in feature cells.
        size: output cells per side.
        sampling: sampling points per side of an output cell.
        sides: [2] int64, width and height of the map in feature cells.

    Returns:
        [k, 2, size, longer side of the map]: first the weights of the columns, then those of the rows.
    """
    positions, weights = _positions(boxes, size * sampling, sides)
    length = int(sides.max())
    point_weights = (1 - (positions[..., None] - torch.arange(length)).abs()).clamp(min=0) * weights[..., None]
    return point_weights.view(len(boxes), 2, size, sampling, length).mean(3)


def _neighbours(boxes: Tensor, points: int, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two columns and the two rows next to each sampling position, and their bilinear weights.

    The arguments are those of `_positions`. Both results have the shape [k, 2, points, 2]: the cells are int64, the
    weights float32.
    """
    positions, weights = _positions(boxes, points, sides)
    lower = positions.floor()
    fraction = positions - lower
    cells = torch.stack([lower, torch.minimum(lower + 1, sides[..., None] - 1)], dim=-1).long()
    return cells, torch.stack([1 - fraction, fraction], dim=-1) * weights[..., None]


def _positions(boxes: Tensor, points: int, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Return evenly spaced sampling positions along x and y of each box, and their weights.

    A position more than one cell off the map has weight 0; one within a cell of the map is moved to its border.

    Args:
        boxes: [k, 4] xyxy in feature cells.
        points: number of positions along each axis.
        sides: [2] or [k, 2] int64, width and height of the map in feature cells.

    Returns:
        Positions in feature cells and weights 0 or 1, both [k, 2, points].
    """
    fractions = (torch.arange(points) + 0.5) / points
    low, high = boxes.view(-1, 2, 2, 1).unbind(1)
    positions = low + fractions * (high - low)
    limits = sides[..., None]
    on_map = (positions >= -1) & (positions <= limits)
    return torch.minimum(positions.clamp(min=0), limits - 1), on_map.to(positions.dtype)
