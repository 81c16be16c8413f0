"""RoIAlign on the CPU: values and gradients equal torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from htc.ops.roi_align import pyramid_roi_align, roi_align

ROIS = {
    "inside": [0, 10.3, 5.7, 40.2, 30.9],
    "other image": [1, 4.0, 8.0, 20.0, 24.0],
    "off the upper left": [1, -30.0, -20.0, 12.0, 18.0],
    "off the lower right": [0, 50.0, 40.0, 120.0, 90.0],
    "larger than the map": [1, -50.0, -50.0, 200.0, 200.0],
    "completely outside": [0, 300.0, 300.0, 340.0, 340.0],
    "on the border": [0, 56.0, 44.0, 64.0, 48.0],
    "less than a cell": [1, 20.1, 20.1, 20.9, 20.8],
    "no width": [0, 20.0, 10.0, 20.0, 30.0],
    "corners swapped": [0, 30.0, 30.0, 20.0, 10.0],
}


def features(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 12, 16, dtype=dtype, generator=generator).requires_grad_()


def pooled_and_gradient(rois: Tensor, size: int, sampling: int, *, ours: bool) -> tuple[Tensor, Tensor]:
    inputs = features()
    if ours:
        pooled = roi_align(inputs, rois, size, 0.25, sampling)
    else:
        pooled = torchvision.ops.roi_align(inputs, rois.double(), (size, size), 0.25, sampling, aligned=True)
    weights = torch.randn(pooled.shape, dtype=pooled.dtype, generator=torch.Generator().manual_seed(1))
    (pooled * weights).sum().backward()
    assert inputs.grad is not None
    return pooled.detach(), inputs.grad


@pytest.mark.parametrize("sampling", [1, 2, 3])
@pytest.mark.parametrize("name", ROIS)
def test_values_and_gradients_equal_torchvisions(name: str, sampling: int) -> None:
    rois = torch.tensor([ROIS[name]])
    ours, theirs = (pooled_and_gradient(rois, 7, sampling, ours=flag) for flag in (True, False))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-4)


def test_many_rois_keep_their_order() -> None:
    rois = torch.tensor([ROIS[name] for name in sorted(ROIS)])
    ours, theirs = (pooled_and_gradient(rois, 14, 2, ours=flag)[0] for flag in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "sampling"), [(7, 1), (7, 2), (14, 1)])
def test_values_and_gradients_on_a_large_map_equal_torchvisions(size: int, sampling: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rois = torch.tensor([ROIS[name] for name in sorted(ROIS)])
    inputs = torch.randn(2, 3, 60, 64, dtype=torch.float64, generator=generator).requires_grad_()
    ours = roi_align(inputs, rois, size, 1.0, sampling)
    theirs = torchvision.ops.roi_align(inputs, rois.double(), (size, size), 1.0, sampling, aligned=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    weights = torch.randn(ours.shape, dtype=ours.dtype, generator=generator)
    gradients = [torch.autograd.grad((pooled * weights).sum(), inputs)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("sampling", [0, 2])
def test_each_roi_of_a_pyramid_is_pooled_from_its_own_level(sampling: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pyramid = [
        torch.randn(2, 3, 24 // 2**i, 32 // 2**i, dtype=torch.float64, generator=generator).requires_grad_()
        for i in range(3)
    ]
    scales = [1 / 2, 1 / 4, 1 / 8]
    rois = torch.tensor([ROIS[name] for name in sorted(ROIS)])
    rois = rois.double() if sampling == 0 else rois
    levels = torch.arange(len(rois)) * 2 % 3
    pooled = pyramid_roi_align(pyramid, rois, levels, 7, scales, sampling)
    expected = [
        torchvision.ops.roi_align(pyramid[level], roi[None].double(), (7, 7), scales[level], sampling, aligned=True)
        for roi, level in zip(rois, levels.tolist(), strict=True)
    ]
    torch.testing.assert_close(pooled, torch.cat(expected), rtol=1e-5, atol=1e-4)
    weights = torch.randn(pooled.shape, dtype=pooled.dtype, generator=generator)
    gradients = [torch.autograd.grad((x * weights).sum(), pyramid) for x in (pooled, torch.cat(expected))]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("sampling", [0, 1])
def test_no_rois_on_a_pyramid_give_empty_features_and_zero_gradients(sampling: int) -> None:
    pyramid = [torch.randn(1, 3, 8, 8, requires_grad=True), torch.randn(1, 3, 4, 4, requires_grad=True)]
    pooled = pyramid_roi_align(pyramid, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), 7, [1.0, 0.5], sampling)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in pyramid)


@pytest.mark.parametrize("sampling", [0, 1])
def test_no_rois_give_empty_features_and_a_zero_gradient(sampling: int) -> None:
    inputs = features(torch.float32)
    pooled = roi_align(inputs, torch.zeros(0, 5), 7, 0.25, sampling)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert inputs.grad is not None and not inputs.grad.any()


def test_gradient_equals_finite_differences() -> None:
    rois = torch.tensor([ROIS["inside"], ROIS["off the upper left"]])
    inputs = features()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, 3, 0.25, 2), (inputs,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_has_the_dtype_of_the_features(dtype: torch.dtype) -> None:
    inputs = features(torch.float32).to(dtype)
    assert roi_align(inputs, torch.tensor([ROIS["inside"]]), 7, 0.25, 1).dtype == dtype
