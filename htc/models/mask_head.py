"""Mask heads of all stages, and the information that flows between them (HTC section 3.2, equation 5)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.layers import conv_relu, init_logits, init_relu


class MaskHead(nn.Module):
    """Convolutions, then an upsampling by 2 and a mask of each class (Mask R-CNN figure 4).

    RoI features [k, channels, 14, 14] -> features [k, channels, 14, 14] -> logits [k, classes, 28, 28].
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int, logit_std: float | None) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_relu(channels, channels, 3) for _ in range(num_convs)))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        init_relu(self.upsample)
        init_logits(self.logits, logit_std)

    def predict(self, features: Tensor) -> Tensor:
        """Features after the convolutions -> logits, float32."""
        return self.logits(F.relu(self.upsample(features))).float()


class MaskFlow(nn.Module):
    """Mask information flow: a stage's RoI features are joined by the features of the stage before it.

    These are taken before their upsampling and embedded by a 1x1 convolution. The first stage has no predecessor.
    """

    def __init__(self, channels: int, num_stages: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({str(t): conv_relu(channels, channels, 1) for t in range(1, num_stages)})

    def forward(self, stage: int, roi_features: Tensor, previous: Tensor) -> Tensor:
        return roi_features + self.embeddings[str(stage)](previous)


class MaskBranch(nn.Module):
    """The mask heads of the cascade; with `flow`, each on top of all earlier ones, on the current RoI features."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_stages: int,
        num_convs: int,
        *,
        mask_flow: bool,
        logit_std: float | None = None,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(MaskHead(channels, num_classes, num_convs, logit_std) for _ in range(num_stages))
        self.flow = MaskFlow(channels, num_stages) if mask_flow else None

    def forward(self, stage: int, roi_features: Tensor) -> Tensor:
        """Logits [k, classes, 28, 28] of one stage (counted from 0)."""
        return self._head(stage).predict(self._features(stage, roi_features)[-1])

    def all_stages(self, roi_features: Tensor) -> list[Tensor]:
        """Logits of every stage, on the same RoI features."""
        features = self._features(len(self.heads) - 1, roi_features, every=True)
        return [self._head(stage).predict(x) for stage, x in enumerate(features)]

    def _head(self, stage: int) -> MaskHead:
        return cast(MaskHead, self.heads[stage])

    def _features(self, last: int, roi_features: Tensor, every: bool = False) -> list[Tensor]:
        """Features of stages up to `last`; without flow the earlier ones only where `every` asks for them."""
        first = 0 if self.flow is not None or every else last
        features: list[Tensor] = []
        for stage in range(first, last + 1):
            x = roi_features
            if self.flow is not None and features:
                x = self.flow(stage, x, features[-1])
            features.append(self._head(stage).convs(x))
        return features
