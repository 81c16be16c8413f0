"""Batch norm over the images of all processes on the CPU; on GPUs PyTorch's own does it, and refuses the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes, each of whose losses depends on it."""

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
    """`nn.SyncBatchNorm` for gloo: same parameters, buffers and results (arXiv 1803.01534)."""

    @classmethod
    def in_place_of(cls, norm: nn.SyncBatchNorm) -> CpuSyncBatchNorm:
        """Takes over the parameters and buffers themselves, so that an optimiser of theirs stays right."""
        assert norm.momentum is not None
        own = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        own.weight, own.bias = norm.weight, norm.bias
        own.running_mean, own.running_var = norm.running_mean, norm.running_var
        own.num_batches_tracked = norm.num_batches_tracked
        return own.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Features [B, C, H, W] -> the same shape, normalised over the batches of all processes while training."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        own_count = x.new_tensor([x.numel() / x.shape[1]])
        shared = _SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), own_count]))
        mean, count = shared[:-1] / shared[-1], shared[-1].detach()
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the stored statistics towards these."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def sync_on_cpu(model: nn.Module) -> None:
    """Replace every `nn.SyncBatchNorm` of a model, which keeps its parameters and the names of its state."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SyncBatchNorm):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, CpuSyncBatchNorm.in_place_of(module))
