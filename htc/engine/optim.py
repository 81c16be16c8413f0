"""The optimiser, its learning rate over time, and the gradient's norm."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import nn

from htc.config.schema import Optimizer, ScheduleConfig


def build_optimizer(model: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """Return the optimiser of all trained parameters, with one weight decay for all (as in the reference)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if schedule.optimizer is Optimizer.adamw:
        return torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    return torch.optim.SGD(
        trained, lr=schedule.learning_rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay, fused=True
    )


def total_steps(schedule: ScheduleConfig, steps_per_epoch: int) -> int:
    """Return the number of optimiser steps of a run."""
    if schedule.iterations is not None:
        return schedule.iterations
    assert schedule.epochs is not None
    return schedule.epochs * steps_per_epoch


def learning_rate(step: int, schedule: ScheduleConfig, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0.

    It is proportional to the batch size (arXiv 1706.02677), with linear warm-up and step decay.
    """
    base = schedule.learning_rate * schedule.batch_size / schedule.reference_batch
    per_unit = steps_per_epoch if schedule.epochs is not None else total_steps(schedule, steps_per_epoch)
    drops = sorted(max(round(milestone * per_unit), 1) for milestone in schedule.milestones)
    rate = base * schedule.gamma ** bisect_right(drops, step)
    if step < schedule.warmup_iterations:
        progress = step / max(schedule.warmup_iterations - 1, 1)
        rate *= schedule.warmup_factor + (1 - schedule.warmup_factor) * progress
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(model: nn.Module, clip_norm: float | None) -> torch.Tensor:
    """Clip the gradients to `clip_norm` in place unless it is None, and return their L2 norm before (scalar tensor)."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if clip_norm is None else clip_norm)
