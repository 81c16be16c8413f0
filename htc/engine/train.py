"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from htc.config import Config, to_plain
from htc.data.coco import CocoDataset
from htc.data.loader import build_train_loader
from htc.engine.checkpoint import load_newest, save_checkpoint
from htc.engine.distributed import Processes
from htc.engine.logs import Console
from htc.engine.meters import LossMeter, SpeedMeter, clock, peak_memory_mb
from htc.engine.optim import build_optimizer, gradient_norm, learning_rate, set_learning_rate, total_steps
from htc.engine.precision import autocast_of, gradient_scaler
from htc.engine.records import RunFolder
from htc.engine.stopping import StopRequest
from htc.engine.tracking import Tracker
from htc.errors import UserError
from htc.structures import Sample

log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - not an error
    """The run was asked to stop and has saved its state."""


class Trainer:
    """Trains a model on a data set, from the newest checkpoint in the run's folder or from the start.

    `evaluate` is called wherever the schedule asks for an evaluation before the end.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: CocoDataset,
        folder: RunFolder,
        processes: Processes,
        evaluate: Callable[[], object],
    ) -> None:
        schedule = config.schedule
        self.config, self.folder, self.processes, self.evaluate = config, folder, processes, evaluate
        self.device = processes.device
        self.raw_model = model
        self.dataset = dataset
        self.optimizer = build_optimizer(model, schedule)
        self.scaler = gradient_scaler(config.precision, self.device)
        self.autocast = autocast_of(config.precision, self.device)
        self.step = 0
        self.training_seconds = 0.0
        self.resumed = self._resume()
        self.images_a_pass = schedule.batch_size // schedule.accumulate
        self.loader = build_train_loader(
            dataset,
            config.data,
            batch_size=self.images_a_pass,
            seed=config.seed,
            rank=processes.rank,
            world_size=processes.world_size,
            start=self.step * schedule.accumulate,
        )
        passes = -(-len(dataset) // self.images_a_pass)
        self.steps_per_epoch = -(-passes // schedule.accumulate)
        self.total_steps = total_steps(schedule, self.steps_per_epoch)
        self.model = processes.wrap(model)

    def train(self, tracker: Tracker) -> None:
        """Train to the end. Raises Stopped after SIGINT or SIGTERM, UserError where a loss is not finite."""
        self.model.train()
        losses, speed = LossMeter(), SpeedMeter()
        start, seconds_before = time.perf_counter(), self.training_seconds
        show = self.config.progress and self.processes.is_main
        batches = iter(self.loader)
        with StopRequest() as stop, _progress_bar(self.total_steps, self.step, show) as bar:
            while self.step < self.total_steps:
                losses.add(self.train_step(batches))
                speed.add(self.config.schedule.batch_size)
                self.step += 1
                self.training_seconds = seconds_before + time.perf_counter() - start
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == self.total_steps:
                    self._report(losses, speed, tracker, bar)
                if self._any_process_stopped(stop):
                    self.save()
                    raise Stopped
                if self._is_time_to_save():
                    self.save()
                if self._is_time_to_evaluate():
                    self.evaluate()
                    self.model.train()
                    speed.reset()
        self.save()

    def train_step(self, batches: Iterator[list[Sample]]) -> dict[str, float]:
        """One update of the weights -> the losses by name, as means over the step's passes."""
        passes = self.config.schedule.accumulate
        set_learning_rate(self.optimizer, self.learning_rate)
        step_losses: dict[str, float] = {}
        for i in range(passes):
            samples = next(batches)
            with self._without_sync(i < passes - 1), self.autocast():
                losses = self._forward(samples)
                loss = sum(losses.values(), start=torch.zeros((), device=self.device)) / passes
            # One transfer for all terms: each one waits for the device.
            values = dict(zip(losses, torch.stack([x.detach().float() for x in losses.values()]).tolist(), strict=True))
            self._check_finite(values, samples)
            self.scaler.scale(loss).backward()
            for name, value in values.items():
                step_losses[name] = step_losses.get(name, 0.0) + value / passes
        self.scaler.unscale_(self.optimizer)
        gradient_norm(self.raw_model, self.config.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return step_losses

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.step, self.config.schedule, self.steps_per_epoch)

    @property
    def epoch(self) -> float:
        """Epochs done, as a fraction."""
        return self.step / self.steps_per_epoch

    def save(self) -> None:
        """Write a checkpoint of the current step; only the main process does."""
        if not self.processes.is_main:
            return
        state = {
            "model": self.raw_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "training_seconds": self.training_seconds,
            "random": torch.get_rng_state(),
            "config": to_plain(self.config),
            "categories": {"ids": self.dataset.category_ids, "names": self.dataset.category_names},
        }
        save_checkpoint(self.folder.checkpoints, self.step, state, self.config.save.keep)

    def _resume(self) -> bool:
        """Take up the newest checkpoint, if there is one."""
        found = load_newest(self.folder.checkpoints)
        if found is None:
            return False
        self.step, state = found
        self.raw_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        self.training_seconds = state["training_seconds"]
        return True

    def _forward(self, samples: list[Sample]) -> dict[str, Tensor]:
        images = [sample.image.to(self.device, non_blocking=True) for sample in samples]
        targets = [sample.targets.to(self.device, non_blocking=True) for sample in samples if sample.targets]
        return self.model(images, targets)

    def _check_finite(self, losses: dict[str, float], samples: list[Sample]) -> None:
        if all(math.isfinite(value) for value in losses.values()):
            return
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        images = ", ".join(str(sample.image_id) for sample in samples)
        raise UserError(
            f"the loss is not finite at step {self.step} (images {images}): {terms}; lower schedule.learning_rate, "
            "lengthen schedule.warmup_iterations or set schedule.clip_norm."
        )

    def _report(self, losses: LossMeter, speed: SpeedMeter, tracker: Tracker, bar: tqdm[Any]) -> None:
        """A line for metrics.jsonl, the tracker, the log and the progress bar, all of the same figures."""
        means, rate = losses.means(), speed.images_per_second()
        total, lr = sum(means.values()), learning_rate(self.step - 1, self.config.schedule, self.steps_per_epoch)
        memory = peak_memory_mb(self.device)
        losses.reset()
        speed.reset()
        if not self.processes.is_main:
            return
        remaining = (self.total_steps - self.step) * self.config.schedule.batch_size / rate
        line = {
            "kind": "train", "step": self.step, "epoch": self.epoch, "lr": lr, "loss": total, "losses": means,
            "images_per_second": rate, "memory_mb": memory, "time": time.time(),
        }  # fmt: skip
        self.folder.append_metrics(line)
        tracker.log(line, self.step)
        bar.set_postfix_str(f"loss {total:.3f}, lr {lr:.2g}, {rate:.1f} images/s")
        console = Console.without_bar if self.config.progress else Console.always
        log.info(
            "step %d/%d  loss %.3f  lr %.3g  %.1f images/s  ETA %s",
            self.step, self.total_steps, total, lr, rate, clock(remaining), extra={"console": console},
        )  # fmt: skip

    def _is_time_to_save(self) -> bool:
        every_epoch = self.config.schedule.epochs is not None and self.step % self.steps_per_epoch == 0
        return self.step < self.total_steps and (every_epoch or self.step % self.config.save.every == 0)

    def _is_time_to_evaluate(self) -> bool:
        every = self.config.schedule.eval_every
        if every is None or self.step >= self.total_steps:
            return False
        return self.step % (every * self.steps_per_epoch if self.config.schedule.epochs is not None else every) == 0

    def _any_process_stopped(self, stop: StopRequest) -> bool:
        """Whether any process was signalled; all must know, since they save and stop together."""
        if self.processes.world_size == 1:
            return stop.received is not None
        flag = torch.tensor(stop.received is not None, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _without_sync(self, active: bool) -> Any:
        """Gradients are exchanged in a step's last pass only."""
        if active and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


def _progress_bar(total: int, done: int, show: bool) -> tqdm[Any]:
    """A bar on a terminal; nothing elsewhere, where the log's lines say the same."""
    return tqdm(total=total, initial=done, unit="step", desc="train", disable=None if show else True, leave=False)
