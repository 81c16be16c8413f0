"""Mask targets."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from htc.ops.masks import crop_masks


def random_masks(number: int, height: int = 50, width: int = 70) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(number, 1, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth.squeeze(1) > 0.5).to(torch.uint8)


def test_crops_equal_torchvisions_aligned_roi_align_of_each_mask() -> None:
    masks, indices = random_masks(5), torch.tensor([4, 0, 0, 2, 4, 1])
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(6, 2, generator=generator) * 40 - 5
    boxes = torch.cat([corners, corners + 3 + torch.rand(6, 2, generator=generator) * 30], 1)
    averages = [
        torchvision.ops.roi_align(masks[i].float()[None, None], [box[None]], (28, 28), 1.0, 0, aligned=True)[0, 0]
        for i, box in zip(indices.tolist(), boxes, strict=True)
    ]
    crops = crop_masks(masks, boxes, indices, 28)
    assert torch.equal(crops, (torch.stack(averages) >= 0.5).float())
    assert 0 < crops.mean() < 1


def test_crop_of_a_box_on_pixel_borders_is_the_mask_unchanged() -> None:
    masks = random_masks(2)
    crops = crop_masks(masks, torch.tensor([[10.0, 5.0, 38.0, 33.0]]), torch.tensor([1]), 28)
    assert torch.equal(crops[0], masks[1, 5:33, 10:38].float())


def test_no_boxes_give_no_crops() -> None:
    assert crop_masks(random_masks(2), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)
    empty = torch.zeros(0, 50, 70, dtype=torch.uint8)
    assert crop_masks(empty, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)
