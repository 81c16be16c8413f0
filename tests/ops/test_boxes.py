"""IoU, deltas and clipping of boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc.ops.boxes import clip_boxes, decode_deltas, encode_deltas, pairwise_iou

coordinate = st.floats(-500, 1500, width=32)
side = st.floats(1, 800, width=32)


@st.composite
def boxes(draw: st.DrawFn) -> Tensor:
    x, y, width, height = draw(coordinate), draw(coordinate), draw(side), draw(side)
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)


@settings(max_examples=200, deadline=None)
@given(boxes(), boxes(), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (0.033, 0.033, 0.067, 0.067)]))
def test_decoding_encoded_deltas_returns_the_target_box(box: Tensor, target: Tensor, stds: tuple[float, ...]) -> None:
    (width, height), (target_width, target_height) = (box[0, 2:] - box[0, :2]), (target[0, 2:] - target[0, :2])
    growth = torch.stack([target_width / width, target_height / height])
    deltas = encode_deltas(box, target, stds)
    decoded = decode_deltas(box, deltas, stds)
    sides = torch.stack([width, height]) * growth.clamp(16 / 1000, 1000 / 16)
    centre = (target[0, :2] + target[0, 2:]) / 2
    expected = torch.cat([centre - sides / 2, centre + sides / 2])
    tolerance = 1e-5 * (1 + float(torch.cat([box, target]).abs().max()))
    torch.testing.assert_close(decoded[0].double(), expected, rtol=0, atol=tolerance)


def test_deltas_are_those_of_the_paper() -> None:
    box, target = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[15.0, 20.0, 55.0, 40.0]])
    deltas = encode_deltas(box, target, (0.1, 0.1, 0.2, 0.2))
    expected = torch.tensor([[15 / 20 / 0.1, -10 / 40 / 0.1, 0.6931472 / 0.2, -0.6931472 / 0.2]])
    torch.testing.assert_close(deltas, expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_growth_and_shrinking_by_large_deltas_are_limited(sign: float) -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    decoded = decode_deltas(box, torch.tensor([[0.0, 0.0, sign * 1e4, sign * 1e4]]), (1.0, 1.0, 1.0, 1.0))
    expected = 10 * (1000 / 16) ** sign
    assert (decoded[0, 2] - decoded[0, 0]).item() == pytest.approx(expected, rel=1e-5)
    assert (decoded[0, 3] - decoded[0, 1]).item() == pytest.approx(expected, rel=1e-5)


def test_iou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]])
    b = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0]])
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0]]))


def test_iou_with_boxes_without_area_is_zero() -> None:
    flat = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0]])
    others = torch.cat([flat, torch.tensor([[0.0, 0.0, 10.0, 10.0]])])
    assert torch.equal(pairwise_iou(flat, others), torch.zeros(2, 3))


def test_clipping_keeps_boxes_on_the_image() -> None:
    clipped = clip_boxes(torch.tensor([[-5.0, -5.0, 200.0, 200.0], [3.0, 4.0, 5.0, 6.0]]), (50, 80))
    assert clipped.tolist() == [[0, 0, 80, 50], [3, 4, 5, 6]]
