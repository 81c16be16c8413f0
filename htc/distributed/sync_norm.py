"""Synchronised batch norm for several processes on CPUs.

`nn.SyncBatchNorm` refuses CPU tensors. Runs with `backbone.norm=sync_bn` and several processes on CPUs need it all the
same: the rows of `sweeps/extensions.yaml` for COCO on a cluster without GPUs, and the tests that compare two processes
over gloo with one process (`tests/distributed/test_processes.py`). On GPUs, `nn.SyncBatchNorm` is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Differentiable sum of a tensor over all processes: the gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.SyncBatchNorm` over gloo, with the same parameters, buffers and results (arXiv 1803.01534)."""

    @classmethod
    def from_sync_norm(cls, norm: nn.SyncBatchNorm) -> CpuSyncBatchNorm:
        """Return a replacement that shares the parameters and buffers of `norm`, so that optimisers stay valid."""
        assert norm.momentum is not None
        replacement = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        replacement.weight, replacement.bias = norm.weight, norm.bias
        replacement.running_mean, replacement.running_var = norm.running_mean, norm.running_var
        replacement.num_batches_tracked = norm.num_batches_tracked
        return replacement.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features [B, C, H, W]; in training mode over the batches of all processes, computed in float32."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        own_count = x.new_tensor([x.numel() / x.shape[1]])
        totals = _SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), own_count]))
        mean, count = totals[:-1] / totals[-1], totals[-1].detach()
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self._update_statistics(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics with mean and unbiased variance [C] of the current batch."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def sync_on_cpu(model: nn.Module) -> None:
    """Replace every `nn.SyncBatchNorm` of a model in place; its parameters and state-dict names stay the same."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SyncBatchNorm):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, CpuSyncBatchNorm.from_sync_norm(module))
