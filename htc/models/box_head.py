"""The box head: two fully connected layers, then class logits and box deltas (FPN section 5.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.models.layers import init_normal


class BoxHead(nn.Module):
    """Box head of one stage: RoI features [k, channels, size, size] -> class logits and box deltas.

    The logits are float32 [k, num_classes + 1], background last. The deltas are float32 [k, 4] if `class_agnostic`,
    else [k, num_classes * 4].

    Args:
        channels: channels of the RoI features.
        fc_channels: width of the fully connected layers.
        num_classes: number of categories, without the background.
        class_agnostic: whether one set of deltas serves all classes.
        size: height and width of the RoI features in cells.
    """

    def __init__(
        self, channels: int, fc_channels: int, num_classes: int, *, class_agnostic: bool, size: int = 7
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * size * size, fc_channels)
        self.fc2 = nn.Linear(fc_channels, fc_channels)
        self.logits = nn.Linear(fc_channels, num_classes + 1)
        self.deltas = nn.Linear(fc_channels, 4 if class_agnostic else num_classes * 4)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        init_normal(self.logits, 0.01)
        init_normal(self.deltas, 0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.fc2(F.relu(self.fc1(features.flatten(1)))))
        return self.logits(x).float(), self.deltas(x).float()


def deltas_of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Return the deltas [k, 4] of the classes `labels` [k] int64.

    `deltas` is [k, classes * 4], or [k, 4] where regression is class-agnostic, which is returned unchanged.
    """
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(len(deltas), device=deltas.device)
    return deltas.view(len(deltas), deltas.shape[1] // 4, 4)[rows, labels]
