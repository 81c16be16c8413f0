"""The semantic branch of HTC (section 3, "Spatial Contexts from Segmentation")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.layers import conv_relu, init_logits
from htc.ops.loss_normaliser import loss_normaliser
from htc.structures import IGNORE_LABEL

FUSED_LEVEL = 1
"""Index of the pyramid level (P3) whose size the other levels are resized to."""
LABEL_STRIDE = 8
"""Stride of the logits in pixels of the network input."""


class SemanticBranch(nn.Module):
    """Segments stuff and things of the complete image from all pyramid levels, resized to stride 8 and summed.

    P2..P6 -> logits [B, num_classes, H / 8, W / 8] and features [B, channels, H / 8, W / 8] for the RoIs.

    Args:
        channels: channels of the pyramid and of all convolutions.
        num_classes: number of semantic classes.
        num_convs: number of 3x3 convolutions after the sum.
        logit_std: standard deviation of the initial weights of the logits; None: He initialisation.
        num_levels: number of pyramid levels.
    """

    def __init__(
        self, channels: int, num_classes: int, num_convs: int, *, logit_std: float | None = None, num_levels: int = 5
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_relu(channels, channels, 1) for _ in range(num_levels))
        self.convs = nn.Sequential(*(conv_relu(channels, channels, 3) for _ in range(num_convs)))
        self.embedding = conv_relu(channels, channels, 1)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        init_logits(self.logits, logit_std)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = self.laterals[FUSED_LEVEL](pyramid[FUSED_LEVEL])
        size = x.shape[-2:]
        for i, (lateral, level) in enumerate(zip(self.laterals, pyramid, strict=True)):
            if i != FUSED_LEVEL:
                x = x + lateral(F.interpolate(level, size=size, mode="bilinear", align_corners=True))
        x = self.convs(x)
        return self.logits(x), self.embedding(x)


def semantic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits [B, classes, h, w] and labels [B, h * 8, w * 8] uint8, 255 = ignored.

    The sum over the labelled pixels is divided by the number of all pixels, the ignored ones included, as in the
    reference implementation.
    """
    labels = labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE].long()
    # On a GPU, the "sum" reduction over a map is not deterministic; a sum over the losses of the pixels is.
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction=reduction).sum()
    return total / loss_normaliser(labels.numel())
