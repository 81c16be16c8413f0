"""The processes of one run: rank, device, and exchange of values and errors."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import traceback
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

STEP_TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other's gradients."""
EXCHANGE_TIMEOUT = timedelta(hours=24)
"""How long processes wait for each other otherwise: the main process may take long to prepare the data or to compute
COCO's metrics. The death of a process is noticed at once in either case."""


@dataclass(frozen=True)
class Processes:
    """This process as one of the processes of the run, and the device that it computes on.

    All methods but `wrap`, `close` and `is_main` are collective: every process must call them in the same order.
    """

    rank: int
    """0..world_size - 1; 0 is the main process."""
    world_size: int
    """Number of processes."""
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)
    """Process group over gloo, for flags and objects, which are not on the device; None for a single process."""

    @property
    def is_main(self) -> bool:
        """True for the process that writes the run's files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in training mode with gradients averaged over all processes.

        With a single process, the model is returned as it is.
        """
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        if devices is None:
            sync_on_cpu(model)
        model.train()
        # Batch norms that are not synchronised compute other statistics on each process. The main process's are copied
        # to the others before each step, so that all processes evaluate the same model.
        own_statistics = any(type(module) is nn.BatchNorm2d and module.training for module in model.modules())
        # The argument has a new name in PyTorch 2.15.
        parameters = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        # Gradients are views of the communication buffers, so that they are not stored twice.
        options: dict[str, Any] = {option: own_statistics, "gradient_as_bucket_view": True}
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, **options)

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of the main process's model, which are the saved ones, to the models of all processes.

        Batch norms that are not synchronised compute their own statistics on each process.
        """
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """Return the (picklable) values of all processes, in the order of their ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def on_main(self, action: Callable[[], T]) -> T:
        """Run `action` on the main process, and return its result on every process.

        If it raises, every process raises, as in `on_all`.
        """
        if self.world_size == 1:
            return action()
        result, error = _attempt(action) if self.is_main else (None, None)
        result, main_error = self.gather((result, None if error is None else _sendable(error, self.rank)))[0]
        if error is not None or main_error is not None:
            raise error or main_error
        return result  # type: ignore[no-any-return]

    def on_all(self, action: Callable[[], T]) -> T:
        """Run `action` on every process, and return each process's own result. If it raises on one, every one raises.

        A UserError or OSError of the first failed process is raised on every process. For other exceptions, a failed
        process raises its own, and the others raise RuntimeError.
        """
        if self.world_size == 1:
            return action()
        result, error = _attempt(action)
        if any(self.any(error is not None)):
            errors = self.gather(None if error is None else _sendable(error, self.rank))
            first = next(each for each in errors if each is not None)
            raise first if error is None or isinstance(error, UserError | OSError) else error
        return result  # type: ignore[return-value]

    def mean(self, value: float) -> torch.Tensor:
        """Return the mean of a number over all processes, a scalar tensor on the device, on every process."""
        total = torch.tensor(float(value), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(total)
        return total / self.world_size

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any process, on every process."""
        if self.world_size == 1:
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(flag) for flag in shared.tolist()]

    def close(self) -> None:
        """Leave the process group, if there is one, and end its threads.

        The threads end with the last reference to a group. The trainer and the frames of an exception in flight refer
        to it, too. A thread that is still alive when the interpreter exits can abort the process.
        """
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()
            object.__setattr__(self, "group", None)
            error = sys.exception()
            while error is not None:
                traceback.clear_frames(error.__traceback__)
                error = error.__context__
            gc.collect()


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Run an action; return its result and None, or None and the exception that it raised."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001 - the caller raises it again, after the exchange with the other processes
        return None, error


def _sendable(error: Exception, rank: int) -> Exception:
    """Return the exception that the other processes raise for an error of process `rank`.

    Not every exception can be pickled, so all but UserError and OSError become RuntimeError.
    """
    if isinstance(error, UserError):
        copy = UserError(error.sentence)
        copy.status = error.status
        return copy
    if isinstance(error, OSError) and error.errno is not None:
        filename = () if error.filename is None else (str(error.filename),)
        return OSError(error.errno, error.strerror, *filename)
    return RuntimeError(f"process {rank} failed: {error!r}")


def start_processes(device: str) -> Processes:
    """Join the processes that `torchrun` started; without `torchrun`, the run has a single process.

    `device` is auto, cpu, cuda or cuda:N. Raises UserError for a device that is not available.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        return Processes(rank, world_size, chosen)
    if not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=STEP_TIMEOUT)
    group = dist.new_group(backend="gloo", timeout=EXCHANGE_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return Processes(rank, world_size, chosen, group)
