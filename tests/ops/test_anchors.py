"""Anchors: their sizes and positions, and which of them belong to an image."""

from __future__ import annotations

import pytest
import torch

from htc.ops.anchors import base_anchors, grid_anchors, valid_anchors


def test_anchors_are_not_rounded() -> None:
    expected = [[-22.627417, -11.3137085, 22.627417, 11.3137085], [-16, -16, 16, 16]]
    torch.testing.assert_close(base_anchors(4, 8.0, [0.5, 1.0]), torch.tensor(expected))


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_every_ratio_has_the_same_area_around_the_same_centre(stride: int) -> None:
    anchors = base_anchors(stride, 8.0, [0.5, 1.0, 2.0])
    widths, heights = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    torch.testing.assert_close(heights / widths, torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(widths * heights, torch.full((3,), float(stride * 8) ** 2))
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])


def test_anchors_are_listed_by_row_then_column_then_ratio() -> None:
    base = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-2.0, -1.0, 2.0, 1.0]])
    anchors = grid_anchors(base, (2, 3), 8)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[8.0 * x, 8.0 * y] for y in range(2) for x in range(3) for _ in range(2)]
    assert torch.equal(anchors[6], base[0] + torch.tensor([0.0, 8.0, 0.0, 8.0]))


def test_anchors_beyond_the_padding_of_a_small_image_are_invalid() -> None:
    """In a batch padded to 96 x 128, an image of 40 x 60 has its own padding, to 64 x 64."""
    valid = valid_anchors(((12, 16), (6, 8)), (8, 16), 3, (40, 60))
    first, second = valid[: 12 * 16 * 3].view(12, 16, 3), valid[12 * 16 * 3 :].view(6, 8, 3)
    assert first[:8, :8].all() and second[:4, :4].all()
    assert int(first.sum()) == 8 * 8 * 3 and int(second.sum()) == 4 * 4 * 3
