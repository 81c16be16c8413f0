"""The processes of one run: who they are, and what they exchange."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from htc.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among those of the run, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; itself where there is only one."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, by rank; on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def start_processes(device: str) -> Processes:
    """Join the processes that `torchrun` started, or be the only one.

    `device` is auto, cpu, cuda or cuda:N. Raises UserError for a device that is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size > 1 and not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    return Processes(rank, world_size, chosen)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises UserError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is not a device: use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device={name}, but PyTorch sees no GPU here: use device=cpu or device=auto.")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UserError(f"device={name}, but there are only {torch.cuda.device_count()} GPUs here.")
    return device
