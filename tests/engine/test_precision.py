"""Number formats of the forward pass."""

from __future__ import annotations

import pytest
import torch

from htc.config.schema import Precision
from htc.engine.precision import autocast_of, gradient_scaler
from htc.errors import UserError
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def losses(precision: Precision, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the training losses and the gradient of their sum with respect to the stem, computed in a precision."""
    model = tiny_detector(tiny_config(interleaved=True, mask_flow=True, semantic=True)).train().to(device)
    images, targets = tiny_batch()
    with autocast_of(precision, device)():
        found = model([image.to(device) for image in images], [target.to(device) for target in targets])
    sum(found.values(), start=torch.zeros((), device=device)).backward()
    gradient = model.backbone.body.conv1.weight.grad
    assert gradient is not None and gradient.isfinite().all()
    return {name: value.detach().cpu() for name, value in found.items()}, gradient.cpu()


@pytest.mark.parametrize(
    ("precision", "device"),
    [
        (Precision.bf16, CPU),
        pytest.param(Precision.bf16, GPU, marks=pytest.mark.gpu),
        pytest.param(Precision.fp16, GPU, marks=pytest.mark.gpu),
    ],
    ids=["bf16-cpu", "bf16-gpu", "fp16-gpu"],
)
def test_losses_in_half_precision_equal_those_of_fp32_up_to_rounding(
    precision: Precision, device: torch.device
) -> None:
    exact, exact_gradient = losses(Precision.fp32, device)
    rounded, gradient = losses(precision, device)
    assert rounded.keys() == exact.keys() and rounded != exact
    for name, value in rounded.items():
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05, abs=0.02), name
    assert gradient.dtype == torch.float32
    assert torch.cosine_similarity(gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.9


def test_fp32_changes_nothing() -> None:
    with autocast_of(Precision.fp32, CPU)():
        assert not torch.is_autocast_enabled("cpu")


def test_bf16_is_active_inside_the_context_only() -> None:
    layer, inputs = torch.nn.Linear(2, 2), torch.zeros(1, 2)
    autocast = autocast_of(Precision.bf16, CPU)
    for _ in range(2):
        with autocast():
            assert layer(inputs).dtype == torch.bfloat16
        assert layer(inputs).dtype == torch.float32


def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="precision=fp16 needs a GPU"):
        autocast_of(Precision.fp16, CPU)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_gradients_are_scaled_for_fp16_only(precision: Precision) -> None:
    scaler = gradient_scaler(precision, CPU)
    assert scaler.scale(torch.tensor(3.0)).item() == 3.0
