"""Gradients of the total loss against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from htc.models.roi_sampling import RoISampler, RoISamples
from htc.models.rpn import Proposals
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector

STEP = 1e-7
MODELS: dict[str, dict[str, Any]] = {
    "HTC": {"interleaved": True, "mask_flow": True, "semantic": True},
    "Cascade Mask R-CNN": {"name": "cascade_mask_rcnn"},
    "Mask R-CNN": {"name": "mask_rcnn", "num_stages": 1},
}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in float64 throughout, and with smooth activations.

    `Tensor.float`, with which the network returns from bfloat16 to float32, converts to float64. ReLU, which has no
    derivative at 0, becomes softplus.
    """
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor.to(torch.float64))
    monkeypatch.setattr(nn.functional, "relu", lambda tensor: nn.functional.softplus(tensor, beta=4))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Recorded:
    """Records the values of the first forward pass and returns them again, in the same order, in each later pass.

    Sampled RoIs have no gradient on purpose, but in a finite difference they would change with the weights.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.position: int | None = None

    def __call__(self, make: Any) -> Any:
        if self.position is None:
            self.values.append(make())
            return self.values[-1]
        self.position += 1
        return self.values[self.position - 1]


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
def test_gradients_of_the_total_loss_equal_finite_differences(
    double: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    model = tiny_detector(tiny_config(**changes)).double().train()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta=4))
    images, targets = tiny_batch()
    for target in targets:
        target.boxes = target.boxes.double()
    noise = torch.Generator().manual_seed(1)
    proposals = [
        Proposals(target.boxes + 4 * torch.randn(target.boxes.shape, generator=noise), torch.ones(len(target.boxes)))
        for target in targets
    ]
    samples, sample = Recorded(), RoISampler.__call__

    def recorded_sample(self: RoISampler, *arguments: Any, **keywords: Any) -> RoISamples:
        return samples(lambda: sample(self, *arguments, **keywords))  # type: ignore[no-any-return]

    monkeypatch.setattr(model.rpn, "propose", lambda *_: proposals)
    monkeypatch.setattr(RoISampler, "__call__", recorded_sample)

    def loss() -> Tensor:
        samples.position = 0 if samples.values else None
        return sum(model(images, targets).values(), start=torch.zeros(()))

    loss().backward()
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        parts.setdefault(".".join(name.split(".")[:2]), []).append(parameter)
    generator = torch.Generator().manual_seed(0)
    for part, parameters in parts.items():
        directions = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        expected = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
        ends = []
        with torch.no_grad():
            origins = [parameter.clone() for parameter in parameters]
            for sign in (1, -1):
                for parameter, origin, direction in zip(parameters, origins, directions, strict=True):
                    parameter.copy_(origin + sign * STEP * direction)
                ends.append(loss().item())
            for parameter, origin in zip(parameters, origins, strict=True):
                parameter.copy_(origin)
        slope = (ends[0] - ends[1]) / (2 * STEP)
        assert abs(expected) > 1e-4, part
        assert slope == pytest.approx(expected, rel=1e-4), part
