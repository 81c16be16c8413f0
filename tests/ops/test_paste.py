"""Pasting masks into images: equal to resampling every mask over the complete image, in COCO's encoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor

from htc.ops.paste import encode_masks, encode_region
from htc.structures import RLE


def paste_over_full_image(probs: Tensor, box: Tensor, height: int, width: int, threshold: float) -> np.ndarray:
    """Paste without shortcuts: interpolate the mask at every pixel of the image."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return np.zeros((height, width), dtype=np.uint8)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([(x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1], dim=-1)
    values = F.grid_sample(probs[None, None], grid[None], align_corners=False)[0, 0]
    return (values >= threshold).numpy().astype(np.uint8)


def decode(rle: RLE) -> np.ndarray:
    mask: np.ndarray = coco_mask.decode(rle)
    return mask


BOXES = {
    "inside": [10.3, 5.7, 40.2, 30.9],
    "whole pixels": [10.0, 5.0, 40.0, 30.0],
    "partly outside": [-12.5, -7.25, 20.4, 18.0],
    "larger than the image": [-30.0, -30.0, 120.0, 90.0],
    "exactly the image": [0.0, 0.0, 61.0, 47.0],
    "at the right and lower border": [50.5, 40.5, 61.0, 47.0],
    "less than a pixel": [20.2, 20.2, 20.9, 20.8],
    "a thin line": [5.0, 20.4, 55.0, 21.7],
    "completely outside": [200.0, 200.0, 260.0, 250.0],
    "outside to the left": [-60.0, 5.0, -20.0, 30.0],
    "no width": [20.0, 10.0, 20.0, 30.0],
    "no height": [10.0, 20.0, 30.0, 20.0],
    "a point": [20.0, 20.0, 20.0, 20.0],
}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", BOXES)
def test_pasted_mask_equals_resampling_over_the_full_image(name: str, threshold: float) -> None:
    torch.manual_seed(0)
    probs = torch.rand(4, 14, 14)
    boxes = torch.tensor([BOXES[name]] * 4)
    for rle, mask, box in zip(encode_masks(probs, boxes, 47, 61, threshold), probs, boxes, strict=True):
        assert rle["size"] == [47, 61]
        assert np.array_equal(decode(rle), paste_over_full_image(mask, box, 47, 61, threshold))


def test_masks_of_an_image_keep_their_order() -> None:
    boxes = torch.tensor(list(BOXES.values()))
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(len(boxes), 28, 28, generator=generator)
    rles = encode_masks(probs, boxes, 47, 61)
    areas = [int(decode(rle).sum()) for rle in rles]
    expected = [paste_over_full_image(mask, box, 47, 61, 0.5).sum() for mask, box in zip(probs, boxes, strict=True)]
    assert areas == expected and len(set(areas)) > 5


def test_mask_of_ones_fills_exactly_its_box() -> None:
    (rle,) = encode_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 5.0, 40.0, 30.0]]), 47, 61)
    expected = np.zeros((47, 61), dtype=np.uint8)
    expected[5:30, 10:40] = 1
    assert np.array_equal(decode(rle), expected)


def test_low_threshold_reaches_beyond_the_box_as_on_the_full_image() -> None:
    """Where a mask cell covers many pixels, interpolation with the zeros outside reaches half a cell beyond the box."""
    probs, box = torch.ones(1, 7, 7), torch.tensor([[40.0, 30.0, 152.0, 142.0]])
    (rle,) = encode_masks(probs, box, 200, 200, 0.1)
    assert coco_mask.toBbox(rle)[0] < 37
    assert np.array_equal(decode(rle), paste_over_full_image(probs[0], box[0], 200, 200, 0.1))


def test_no_detections_give_no_masks() -> None:
    assert encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 47, 61) == []


def test_encoding_does_not_grow_with_the_image() -> None:
    """A small mask is encoded also in an image that is too large for a full-size mask in memory."""
    (rle,) = encode_masks(torch.ones(1, 28, 28), torch.tensor([[40000.0, 50000.0, 40010.0, 50010.0]]), 60000, 60000)
    assert coco_mask.toBbox(rle).tolist() == [40000.0, 50000.0, 10.0, 10.0]
    assert int(coco_mask.area(rle)) == 100


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_region_is_encoded_as_coco_encodes_the_full_mask(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    top, left = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    rows, columns = data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    region = np.array(bits, dtype=bool).reshape(rows, columns)
    full = np.zeros((height, width), dtype=np.uint8)
    full[top : top + rows, left : left + columns] = region
    expected = coco_mask.encode(np.asfortranarray(full))
    assert encode_region(region, left, top, height, width)["counts"] == expected["counts"].decode()


@pytest.mark.gpu
def test_masks_on_a_gpu_differ_only_by_rounding() -> None:
    generator = torch.Generator().manual_seed(2)
    probs = torch.rand(20, 28, 28, generator=generator)
    corners = torch.rand(20, 4, generator=generator) * 200
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
    on_cpu = encode_masks(probs, boxes, 300, 300)
    on_gpu = encode_masks(probs.cuda(), boxes.cuda(), 300, 300)
    differing = sum(int((decode(a) != decode(b)).sum()) for a, b in zip(on_cpu, on_gpu, strict=True))
    assert differing <= 20
