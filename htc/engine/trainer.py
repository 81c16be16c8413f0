"""The training loop, and the state that it continues from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from htc.checkpoint.files import read_checkpoint, save_checkpoint
from htc.checkpoint.record import Categories, Checkpoint, ProcessState, TrainingState
from htc.config.schema import Config
from htc.config.signature import to_plain
from htc.data.dataset import CocoDataset
from htc.data.loader import build_train_loader
from htc.distributed.processes import Processes
from htc.engine.ema import build_average
from htc.engine.meters import LossMeter, SpeedMeter, clock, mean_of, peak_memory_mb
from htc.engine.nonfinite import NonFiniteReport, StepFigures, nonfinite_message
from htc.engine.optim import build_optimizer, gradient_norm, learning_rate, set_learning_rate, total_steps
from htc.engine.precision import autocast_of, gradient_scaler
from htc.engine.replay_file import ReplayFile
from htc.engine.rng import preserve_rng_state, random_state, set_random_state
from htc.engine.stopping import Stopped, StopRequest
from htc.errors import UserError
from htc.ops.loss_normaliser import shared_normalisers
from htc.runs.folder import RunFolder
from htc.runs.logs import Console
from htc.runs.tracking import Tracker
from htc.structures import Sample

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a model on a data set, from the start or from a checkpoint of the run.

    Args:
        config: the run's configuration.
        model: the network, on its device.
        dataset: the training data.
        folder: where checkpoints and metrics are written.
        processes: the processes of the run.
        evaluate: called where the schedule asks for an evaluation before the end.
        checkpoint: the file to continue from; None to start from the beginning.
        parent: the last checkpoint of the run that this one continues; only read without `checkpoint`.
        stop: a request to stop that other parts of the run share.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: CocoDataset,
        folder: RunFolder,
        processes: Processes,
        evaluate: Callable[[], object],
        checkpoint: Path | None = None,
        stop: StopRequest | None = None,
        parent: Path | None = None,
    ) -> None:
        schedule = config.schedule
        self.config, self.folder, self.processes, self.evaluate = config, folder, processes, evaluate
        self.device = processes.device
        self.raw_model = model
        self.dataset = dataset
        self.optimizer = build_optimizer(model, schedule)
        self._optimizer_settings = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        self.scaler = gradient_scaler(config.precision, self.device)
        self.autocast = autocast_of(config.precision, self.device)
        self.average = build_average(model, schedule.ema)
        self.losses = LossMeter()
        self.stop = stop or StopRequest()
        self.step = 0
        self.overflows = 0
        """Number of steps without an update because their gradients overflowed in fp16."""
        self.training_seconds = 0.0
        self._saved: int | None = None
        self._resumed_random: dict[str, Any] | None = None
        self.metrics_length: int | None = None
        """Bytes of metrics.jsonl at the checkpoint that training continues from; None from the start."""
        if checkpoint is not None:
            self.load_state_dict(processes.on_all(lambda: read_checkpoint(checkpoint)))
        elif parent is not None:
            self.load_parent(processes.on_all(lambda: read_checkpoint(parent)), parent)
        self.images_per_micro_batch = schedule.batch_size // schedule.accumulate
        self.loader = build_train_loader(
            dataset,
            config.data,
            batch_size=self.images_per_micro_batch,
            seed=config.seed,
            rank=processes.rank,
            world_size=processes.world_size,
            start=self.step * schedule.accumulate,
        )
        micro_batches = -(-len(dataset) // self.images_per_micro_batch)
        self.steps_per_epoch = -(-micro_batches // schedule.accumulate)
        self.total_steps = total_steps(schedule, self.steps_per_epoch)
        if parent is not None and checkpoint is None and self.total_steps <= self.step:
            raise UserError(
                f"the schedule ends after {self.total_steps} steps, and the run to continue has {self.step} steps: set "
                "a longer schedule, such as schedule.iterations or schedule.epochs, which counts both."
            )
        self.model = processes.wrap(model)

    @property
    def resumed(self) -> bool:
        """Whether training continues from a checkpoint."""
        return self.metrics_length is not None

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to evaluate: with the averaged weights where the run keeps an average."""
        return self.raw_model if self.average is None else self.average.module

    def train(self, tracker: Tracker) -> None:
        """Train to the end.

        Raises:
            Stopped: after SIGINT or SIGTERM, when the step in progress is done and saved.
            UserError: where a loss or a gradient is not finite.

        An error of one process over an image, a checkpoint or metrics.jsonl is raised on all processes.
        """
        self.model.train()
        speed = SpeedMeter()
        seconds_before = self.training_seconds
        show = self.config.progress and self.processes.is_main
        batches = iter(self.loader)
        if self._resumed_random is not None:
            # Set last: building a loader draws from the random states.
            set_random_state(self._resumed_random, self.device)
            self._resumed_random = None
            self._evaluate_if_due(pending=True)
        start = time.perf_counter()
        with self.stop, _progress_bar(self.total_steps, self.step, show) as bar:
            while self.step < self.total_steps:
                losses, stopped = self.train_step(batches)
                self.losses.add(losses)
                speed.add(self.config.schedule.batch_size)
                self.step += 1
                self.training_seconds = seconds_before + time.perf_counter() - start
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == self.total_steps:
                    self._report(speed, tracker, bar)
                if stopped:
                    self.save()
                    raise Stopped
                if self._is_time_to_save():
                    self.save()
                if self._evaluate_if_due():
                    speed.reset()
        self.save()

    def train_step(self, batches: Iterator[list[Sample]]) -> tuple[dict[str, float], bool]:
        """Update the weights once, and return the losses by name (means over the micro-batches) and whether to stop."""
        set_learning_rate(self.optimizer, self.learning_rate)
        micro_batches = self.processes.on_all(lambda: [next(batches) for _ in range(self.config.schedule.accumulate)])
        terms: list[Tensor] = []
        for i, samples in enumerate(micro_batches):
            with self._without_sync(i < len(micro_batches) - 1), self.autocast():
                losses = self._forward(samples)
                loss = sum(losses.values(), start=torch.zeros((), device=self.device)) / len(micro_batches)
            self.scaler.scale(loss).backward()
            terms.append(torch.stack([value.detach().float() for value in losses.values()]))
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.raw_model, self.config.schedule.clip_norm)
        # All figures of the step come in one transfer, because each transfer waits for the device.
        *means, norm_value = torch.cat([torch.stack(terms).mean(0), norm.float().view(1)]).tolist()
        figures = StepFigures(dict(zip(losses, means, strict=True)), norm_value)
        stopped = self._agree_to_go_on(figures, micro_batches)
        # Checked here, because fused optimisers on the CPU ignore what the scaler found.
        if figures.finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and figures.finite:
            self.average.update_parameters(self.raw_model)
        return figures.losses, stopped

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return learning_rate(self.step, self.config.schedule, self.steps_per_epoch)

    @property
    def epoch(self) -> float:
        """Number of epochs done, with a fraction."""
        return self.step / self.steps_per_epoch

    def save(self) -> None:
        """Write a checkpoint of the current step unless it exists; all processes take part, and the main one writes."""
        if self._saved == self.step:
            return
        checkpoint = self.state_dict()
        self.processes.on_main(lambda: save_checkpoint(self.folder.checkpoints, checkpoint, self.config.save.keep))
        self._saved = self.step

    def state_dict(self) -> Checkpoint:
        """Return everything that training continues from; all processes take part."""
        own = ProcessState(random_state(self.device), self.losses.state())
        average = self.average
        return Checkpoint(
            model=self.raw_model.state_dict(),
            config=to_plain(self.config),
            categories=self._categories,
            step=self.step,
            ema=None if average is None else average.module.state_dict(),
            training=TrainingState(
                optimizer=self.optimizer.state_dict(),
                scaler=self.scaler.state_dict(),
                ema_updates=0 if average is None else int(average.n_averaged),
                overflows=self.overflows,
                training_seconds=self.training_seconds,
                processes=self.processes.gather(own),
                metrics_length=self.processes.on_main(self.folder.metrics_length),
            ),
        )

    def load_state_dict(self, checkpoint: Checkpoint, folder: Path | None = None) -> None:
        """Continue from a checkpoint of this run: a resumed run equals an uninterrupted one to the last bit.

        The random states are set when training starts. Raises UserError for a checkpoint without a training state, and
        where the categories of the data set have changed: the network's classes would mean other things.

        Args:
            checkpoint: the checkpoint.
            folder: folder of the run that wrote it; None for this run.
        """
        folder = folder or self.folder.path
        state = checkpoint.training
        if state is None:
            raise UserError(
                f"the checkpoint of step {checkpoint.step} in {folder} has no training state to continue "
                "from: move that folder away, and give the file as checkpoint=FILE to start from its weights."
            )
        if checkpoint.categories != self._categories:
            raise UserError(
                f"{self.dataset.annotation_file} has other categories than those that the run in {folder} "
                "was trained on so far: restore the file, or move that folder away to start again."
            )
        self.raw_model.load_state_dict(checkpoint.model)
        if self.average is not None:
            assert checkpoint.ema is not None
            self.average.module.load_state_dict(checkpoint.ema)
            self.average.n_averaged.fill_(state.ema_updates)
        self.optimizer.load_state_dict(state.optimizer)
        self.scaler.load_state_dict(state.scaler)
        self.overflows = state.overflows
        self.step = self._saved = checkpoint.step
        self.training_seconds = state.training_seconds
        self.metrics_length = state.metrics_length
        # A run that continues with more processes gives the main process's state to the added ones.
        own = state.processes[self.processes.rank if self.processes.rank < len(state.processes) else 0]
        self.losses.load(own.losses)
        self._resumed_random = own.random

    def load_parent(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue the training of another run with the schedule of this one.

        Args:
            checkpoint: its last checkpoint.
            path: the checkpoint's file, for messages.

        Raises:
            UserError: as `load_state_dict`.
        """
        if self.average is not None and checkpoint.ema is None:
            # An average that begins now begins with these weights.
            checkpoint = replace(checkpoint, ema=checkpoint.model)
        self.load_state_dict(checkpoint, path.parents[1])
        # The checkpoint holds the settings of the optimiser, too.
        for group, new in zip(self.optimizer.param_groups, self._optimizer_settings, strict=True):
            group.update(new)
        self._saved, self.metrics_length = None, None

    @property
    def _categories(self) -> Categories:
        return Categories(self.dataset.category_ids, self.dataset.category_names)

    def _forward(self, samples: list[Sample]) -> dict[str, Tensor]:
        images = [sample.image.to(self.device, non_blocking=True) for sample in samples]
        targets = [sample.targets.to(self.device, non_blocking=True) for sample in samples if sample.targets]
        with shared_normalisers(self.processes.mean if self.processes.world_size > 1 else None):
            return self.model(images, targets)

    def _agree_to_go_on(self, figures: StepFigures, micro_batches: list[list[Sample]]) -> bool:
        """Return whether any process received a signal to stop: all processes save and stop together.

        Raises UserError on all processes where the figures of one of them are not finite. An overflow of fp16 gradients
        is no error: the scaler skips that step.
        """
        broken = not figures.finite
        if broken and figures.finite_losses and self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            self.overflows += 1
            broken = False
        # A loss identifies the process with the images; a gradient is averaged over all processes and does not.
        own_loss = broken and not figures.finite_losses
        stopped, any_broken, any_loss = self.processes.any(self.stop.received is not None, broken, own_loss)
        if any_broken:
            is_source = own_loss or (broken and not any_loss)
            own = self._report_nonfinite(figures, micro_batches) if is_source else None
            raise UserError(
                nonfinite_message(self.step + 1, [report for report in self.processes.gather(own) if report])
            )
        return stopped

    def _report_nonfinite(self, figures: StepFigures, micro_batches: list[list[Sample]]) -> NonFiniteReport:
        """Write the replay file of the step in progress, whose update has not been made, and return the report."""
        replay = ReplayFile(
            config=to_plain(self.config),
            categories=self._categories,
            model=self.raw_model.state_dict(),
            step=self.step + 1,
            loss_scale=self.scaler.get_scale() if self.scaler.is_enabled() else 1.0,
            micro_batches=micro_batches,
        )
        path = self.folder.path / "replay" / f"step_{replay.step:08d}_process_{self.processes.rank}.pt"
        images = [sample.image_id for samples in micro_batches for sample in samples]
        return NonFiniteReport(figures, images, replay.write(path))

    def _evaluate_if_due(self, *, pending: bool = False) -> bool:
        """Evaluate if the schedule asks for it, and return whether it did.

        pending: evaluate only if the run was stopped after its checkpoint and before this evaluation.
        """
        if not self._is_time_to_evaluate():
            return False
        if pending and self.processes.on_main(lambda: self.folder.has_evaluation(self.step)):
            return False
        try:
            with preserve_rng_state(self.device):
                self.evaluate()
        except Stopped:
            self.save()
            raise
        self.model.train()
        return True

    def _report(self, speed: SpeedMeter, tracker: Tracker, bar: tqdm[Any]) -> None:
        """Write the figures since the last report to metrics.jsonl, the tracker, the log and the progress bar."""
        means, rate = mean_of(self.processes.gather(self.losses.means())), speed.images_per_second()
        total, lr = sum(means.values()), learning_rate(self.step - 1, self.config.schedule, self.steps_per_epoch)
        memory = peak_memory_mb(self.device)
        self.losses.reset()
        speed.reset()
        remaining = (self.total_steps - self.step) * self.config.schedule.batch_size / rate
        line = {
            "kind": "train", "step": self.step, "epoch": self.epoch, "lr": lr, "loss": total, "losses": means,
            "images_per_second": rate, "memory_mb": memory, "time": time.time(),
        }  # fmt: skip
        if self.scaler.is_enabled():
            line["overflows"] = self.overflows
        self.processes.on_main(lambda: self.folder.append_metrics(line))
        if not self.processes.is_main:
            return
        tracker.log(line, self.step)
        bar.set_postfix_str(f"loss {total:.3f}, lr {lr:.2g}, {rate:.1f} images/s")
        console = Console.without_bar if self.config.progress else Console.always
        logger.info(
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

    def _without_sync(self, active: bool) -> Any:
        """Suspend the exchange of gradients: it happens in the last micro-batch of a step only."""
        if active and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


def _progress_bar(total: int, done: int, show: bool) -> tqdm[Any]:
    """Return a progress bar that is shown on a terminal; elsewhere the log shows the progress."""
    return tqdm(total=total, initial=done, unit="step", desc="train", disable=None if show else True, leave=False)
