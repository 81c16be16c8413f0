"""An exponential moving average of the weights, which is evaluated in their place (`schedule.ema`)."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the average, `decay` x average + (1 - decay) x weights after each step; None without decay.

    It starts with the weights after the first step. Buffers, such as the statistics of batch norms, are not averaged
    but copied.
    """
    if decay is None:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.module.requires_grad_(False)
    return average
