"""Convolutions as the heads use them."""

from __future__ import annotations

from torch import Tensor, nn


def conv_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution with bias and same padding, then ReLU; no normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    init_relu(conv)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def init_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """He initialisation by fan-out, zero bias (arXiv 1502.01852)."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_logits(layer: nn.Conv2d, std: float | None) -> None:
    """As `init_normal` with a given `std`, as `init_relu` (the reference's) without."""
    if std is None:
        init_relu(layer)
    else:
        init_normal(layer, std)


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Gaussian weights of standard deviation `std`, zero bias."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero_loss(*outputs: Tensor) -> Tensor:
    """A loss of 0 that still connects `outputs` to the graph, so that every process has every gradient."""
    return sum((output.sum() * 0 for output in outputs), start=outputs[0].new_zeros(()))
