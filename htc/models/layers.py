"""Layers and initialisations that the heads share."""

from __future__ import annotations

from torch import Tensor, nn


def conv_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution with bias and same padding, followed by ReLU; there is no normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    init_relu(conv)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def init_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialise weights by He's method with fan-out (arXiv 1502.01852), and the bias with zeros."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_logits(layer: nn.Conv2d, std: float | None) -> None:
    """Initialise by `init_normal` with `std`; without `std` by `init_relu`, as the reference implementation does."""
    if std is None:
        init_relu(layer)
    else:
        init_normal(layer, std)


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Initialise weights from a Gaussian of standard deviation `std`, and the bias with zeros."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero_loss(*outputs: Tensor) -> Tensor:
    """Return a loss of 0 that depends on `outputs`, so that all their parameters get a gradient on every process."""
    return sum((output.sum() * 0 for output in outputs), start=outputs[0].new_zeros(()))
