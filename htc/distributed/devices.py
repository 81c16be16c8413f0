"""The device that a process computes on, its number of threads, and the memory format of the network."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch
from torch import nn

from htc.config.schema import Config
from htc.errors import UserError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the torch device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises UserError where there is no such device."""
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


def use_threads(config: Config) -> None:
    """Set PyTorch's number of CPU threads in this process to `threads`; null leaves PyTorch's default."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def to_device(model: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Move a model to its device, in the memory format that `channels_last` sets."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload,no-any-return]


def device_name(device: torch.device) -> str:
    """Return the name of a device, such as `NVIDIA H200` or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return models[0].strip() if models else platform.processor() or platform.machine() or "CPU"


def visible_devices(device: str) -> list[str]:
    """Return the names of the devices that a run with this `device` key can use: GPUs, or the processor."""
    if device == "cpu" or not torch.cuda.is_available():
        return [device_name(torch.device("cpu"))]
    if device.startswith("cuda:"):
        return [device_name(torch.device(device))]
    return [device_name(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
