"""The processes of one run: who they are, and what they exchange."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from htc.distributed.devices import choose_device
from htc.distributed.sync_norm import sync_on_cpu
from htc.errors import UserError

T = TypeVar("T")

STEP_PATIENCE = timedelta(minutes=10)
"""How long processes wait for each other's gradients."""
PATIENCE = timedelta(hours=24)
"""How long they wait for each other otherwise: COCO's metrics on one of them, or its data, may take long. That a
process has died shows at once all the same."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)
    """For what is not computed on the device: flags and objects, over gloo."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in training mode, with gradients averaged over all processes; itself where there is only one."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        if devices is None:
            sync_on_cpu(model)
        model.train()
        # Each process's batch norms would gather statistics of their own, evaluated and saved as if they were all's.
        own_statistics = any(type(module) is nn.BatchNorm2d and module.training for module in model.modules())
        # PyTorch 2.15 has a new name for it.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # Views: gradients would be in memory twice.
        options: dict[str, Any] = {option: own_statistics, "gradient_as_bucket_view": True}
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, **options)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers of a model, which it saves.

        Batch norms that are not synchronised gather statistics of their own on each process.
        """
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, by rank; on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def on_main(self, action: Callable[[], T]) -> T:
        """What `action` returns on the main process; on every process. Where it raises, all of them do, as `on_all`."""
        if self.world_size == 1:
            return action()
        result, error = attempted(action) if self.is_main else (None, None)
        result, told = self.gather((result, None if error is None else shareable(error, self.rank)))[0]
        if error is not None or told is not None:
            raise error or told
        return result  # type: ignore[no-any-return]

    def on_all(self, action: Callable[[], T]) -> T:
        """What `action` returns on this process. Where it raises on any of them, all of them raise.

        That is the same UserError or OSError on every process, or RuntimeError where it raised nothing itself and
        another one raised something else.
        """
        if self.world_size == 1:
            return action()
        result, error = attempted(action)
        if any(self.any(error is not None)):
            told = self.gather(None if error is None else shareable(error, self.rank))
            first = next(found for found in told if found is not None)
            raise first if error is None or isinstance(error, UserError | OSError) else error
        return result  # type: ignore[return-value]

    def mean(self, value: float) -> torch.Tensor:
        """The mean of a number over all processes, a scalar on the device; on every process."""
        shared = torch.tensor(float(value), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(shared)
        return shared / self.world_size

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has it set; on every process."""
        if self.world_size == 1:
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(flag) for flag in shared.tolist()]

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def attempted(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What an action returns, and what it raises."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001 - raised again, when the others know
        return None, error


def shareable(error: Exception, rank: int) -> Exception:
    """An error of process `rank` as the others raise it: any exception could not be sent to them."""
    if isinstance(error, UserError):
        told = UserError(error.sentence)
        told.status = error.status
        return told
    if isinstance(error, OSError) and error.errno is not None:
        place = () if error.filename is None else (str(error.filename),)
        return OSError(error.errno, error.strerror, *place)
    return RuntimeError(f"process {rank} failed: {error!r}")


def start_processes(device: str) -> Processes:
    """Join the processes that `torchrun` started, or be the only one.

    `device` is auto, cpu, cuda or cuda:N. Raises UserError for a device that is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        return Processes(rank, world_size, chosen)
    if not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=STEP_PATIENCE)
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return Processes(rank, world_size, chosen, group)
