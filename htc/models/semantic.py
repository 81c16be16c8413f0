"""The semantic branch (HTC section 3.3): stuff and things segmented over the whole image, for spatial context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.layers import conv_relu, init_logits
from htc.ops.loss_normaliser import loss_normaliser
from htc.structures import IGNORE_LABEL

FUSED_LEVEL = 1
LABEL_STRIDE = 8


class SemanticBranch(nn.Module):
    """All pyramid levels meet at stride 8, pass `num_convs` convolutions, and become logits and features.

    P2..P6 -> logits [B, classes, H / 8, W / 8] and features [B, channels, H / 8, W / 8].
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
    """Cross-entropy of logits [B, classes, h, w] and labels [B, h * 8, w * 8], 255 = ignored.

    A mean over all pixels, the ignored ones included, as the reference takes it.
    """
    labels = labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE].long()
    # On a GPU its own sum of a map is not deterministic, that of the pixels' losses is.
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction=reduction).sum()
    return total / loss_normaliser(labels.numel())
