"""Mask heads of all stages, and the mask information flow between them (HTC section 3, equation 5)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.layers import conv_relu, init_logits, init_relu


class MaskHead(nn.Module):
    """Mask head of one stage: convolutions, upsampling by 2, and mask logits of each class (Mask R-CNN figure 4).

    `convs`: RoI features [k, channels, 14, 14] -> features [k, channels, 14, 14]; `predict`: features -> logits.

    Args:
        channels: channels of the RoI features and of all convolutions.
        num_classes: number of categories, without the background.
        num_convs: number of 3x3 convolutions.
        logit_std: standard deviation of the initial weights of the logits; None: He initialisation.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int, logit_std: float | None) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_relu(channels, channels, 3) for _ in range(num_convs)))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        init_relu(self.upsample)
        init_logits(self.logits, logit_std)

    def predict(self, features: Tensor) -> Tensor:
        """Return the logits [k, num_classes, 28, 28] float32 of the features after the convolutions."""
        return self.logits(F.relu(self.upsample(features))).float()


class MaskFlow(nn.Module):
    """Mask information flow: adds the mask features of the preceding stage to the RoI features of a stage.

    The mask features are those before the upsampling, embedded by a 1x1 convolution. The first stage has none.
    """

    def __init__(self, channels: int, num_stages: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({str(t): conv_relu(channels, channels, 1) for t in range(1, num_stages)})

    def forward(self, stage: int, roi_features: Tensor, previous: Tensor) -> Tensor:
        """Return features [k, channels, 14, 14] for the head of `stage` (counted from 0, at least 1)."""
        return roi_features + self.embeddings[str(stage)](previous)


class MaskBranch(nn.Module):
    """The mask heads of the cascade.

    With mask flow, the head of a stage runs after the heads of all earlier stages, on the same RoI features.

    Args:
        channels: channels of the RoI features and of all convolutions.
        num_classes: number of categories, without the background.
        num_stages: number of heads.
        num_convs: number of 3x3 convolutions per head.
        mask_flow: whether the features of each stage's head enter the next one.
        logit_std: standard deviation of the initial weights of the logits; None: He initialisation.
    """

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
        """Return the logits [k, num_classes, 28, 28] of one stage, counted from 0.

        The RoI features are [k, channels, 14, 14].
        """
        return self._head(stage).predict(self._features(stage, roi_features)[-1])

    def all_stages(self, roi_features: Tensor) -> list[Tensor]:
        """Return the logits of every stage for the same RoI features, each as in `forward`."""
        features = self._features(len(self.heads) - 1, roi_features, all_stages=True)
        return [self._head(stage).predict(x) for stage, x in enumerate(features)]

    def _head(self, stage: int) -> MaskHead:
        return cast(MaskHead, self.heads[stage])

    def _features(self, last: int, roi_features: Tensor, all_stages: bool = False) -> list[Tensor]:
        """Return the mask features of the stages up to `last`.

        Without mask flow, the earlier stages do not affect the last one and are computed only with `all_stages`.
        """
        first = 0 if self.flow is not None or all_stages else last
        features: list[Tensor] = []
        for stage in range(first, last + 1):
            x = roi_features
            if self.flow is not None and features:
                x = self.flow(stage, x, features[-1])
            features.append(self._head(stage).convs(x))
        return features
