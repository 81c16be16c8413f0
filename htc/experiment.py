"""One run from its configuration to its results: prepare, train, evaluate, record."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htc.checkpoint.files import checkpoint_steps, newest_checkpoint
from htc.config.schema import BnMode, Config, Norm
from htc.data.check.decoding import refuse_unreadable_images
from htc.data.dataset import CocoDataset, build_dataset
from htc.data.splits import check_splits
from htc.distributed.processes import Processes, start_processes
from htc.engine.meters import clock, peak_memory_mb
from htc.engine.stopping import Stopped, StopRequest
from htc.engine.trainer import Trainer
from htc.errors import UserError, memory_exhausted
from htc.evaluation.evaluator import Evaluation, Evaluator
from htc.models.detector import Detector, build_detector
from htc.runs.folder import RunFolder, find_folder
from htc.runs.json_values import mapping, number
from htc.runs.lock import RunLock
from htc.runs.tracking import Tracker
from htc.trained_model import start_from, use_threads

logger = logging.getLogger(__name__)

UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


def run_experiment(config: Config, command: list[str]) -> dict[str, Any]:
    """Train, evaluate and record one run -> its results, as results.json holds them.

    A finished run is left as it is; an interrupted one goes on from its newest checkpoint. Raises UserError for what
    the user can mend; the folder then says `failed` and why.
    """
    processes = start_processes(config.device)
    use_threads(config)
    path, done = processes.on_main(lambda: find_folder(config))
    folder = RunFolder(path)
    if done:
        results = folder.read_results()
        say(f"{path} is done already ({summary(results)}); force=true runs it anew beside it.", processes)
        return results
    lock = RunLock(path)
    with write_errors_as_user_errors(path):
        processes.on_main(lock.acquire)
    try:
        with write_errors_as_user_errors(path):
            results = attempt(config, folder, processes, command)
    finally:
        lock.release()
        processes.close()
    say(f"{path}: {summary(results)}", processes)
    return results


def attempt(config: Config, folder: RunFolder, processes: Processes, command: list[str]) -> dict[str, Any]:
    """Run in a folder that is this process's alone, and record in run.json how it ends."""
    # From here on: an interrupt in the middle of whatever code is at work could leave a lock behind that ends nothing.
    stop = StopRequest()
    try:
        with stop:
            processes.on_all(lambda: folder.setup_logging(main=processes.is_main))
            return Experiment(config, folder, processes, stop).run(command)
    except Stopped:
        if processes.is_main and folder.run_file.is_file():
            folder.set_status("preempted")
        saved = bool(checkpoint_steps(folder.checkpoints))
        what = "Stopped after saving a checkpoint in" if saved else "Stopped before training, in"
        say(f"{what} {folder.path}; the same command goes on from there.", processes)
        sys.exit(128 + (signal.SIGTERM if saved else stop.received or signal.SIGTERM))
    except KeyboardInterrupt:
        if processes.is_main and folder.run_file.is_file():
            with suppress(OSError, UserError):
                folder.set_status("preempted")
        say(f"Interrupted; what {folder.path} holds stays, and the same command goes on from there.", processes)
        sys.exit(128 + signal.SIGINT)
    except BaseException as error:
        exhausted = memory_exhausted(error)
        if not isinstance(error, UserError | OSError) and not exhausted:
            logger.exception("the run failed")
        error = exhausted or error
        if processes.is_main and folder.run_file.is_file():
            reason = error.sentence if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            # On a full or broken disk the record cannot be kept either; what went wrong is said all the same.
            with suppress(OSError, UserError):
                folder.set_status("failed", reason)
        if exhausted:
            raise exhausted from None
        raise


@contextmanager
def write_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into a UserError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or path
        raise UserError(
            f"{place} could not be written ({error.strerror}): make room or make the folder writable and start the "
            "same command again, which goes on from the last good checkpoint."
        ) from None


class Experiment:
    """The parts of one run: data, model, trainer, evaluator, and the records that they fill."""

    def __init__(self, config: Config, folder: RunFolder, processes: Processes, stop: StopRequest) -> None:
        self.config, self.folder, self.processes, self.stop = config, folder, processes, stop
        train_data, self.val_data = processes.on_all(lambda: build_splits(config))
        self._end_if_stopped()
        newest = processes.on_main(lambda: newest_checkpoint(folder.checkpoints))
        if newest is None:
            processes.on_main(lambda: refuse_unreadable_images(self.val_data, config.eval.limit, config.data.workers))
        self._end_if_stopped()
        self.model = processes.on_all(lambda: build_model(config, train_data, processes, resumed=newest is not None))
        self.evaluator = Evaluator(config, self.val_data, processes)
        self.trainer = Trainer(config, self.model, train_data, folder, processes, self.evaluate, newest, stop)
        self._end_if_stopped()
        self.tracker = Tracker(None)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        logger.info(
            "%s: %d training and %d validation images, %.1f M parameters, %d steps, device %s",
            folder.path, len(train_data), len(self.val_data), self.parameters / 1e6, self.trainer.total_steps,
            processes.device,
        )  # fmt: skip

    def run(self, command: list[str]) -> dict[str, Any]:
        """Train, evaluate and record -> the results."""
        self.processes.on_main(lambda: self._start(command))
        try:
            self.trainer.train(self.tracker)
            logger.info("trained in %s; now evaluating", clock(self.trainer.training_seconds))
            return self._conclude(self.evaluate())
        except BaseException as error:
            self.tracker.finish(exit_code=1, preempted=isinstance(error, Stopped | KeyboardInterrupt))
            raise

    def _end_if_stopped(self) -> None:
        """Raise Stopped on all processes where one of them was asked to stop before training began."""
        if any(self.processes.any(self.stop.received is not None)):
            raise Stopped

    def _start(self, command: list[str]) -> None:
        trainer = self.trainer
        if trainer.resumed:
            logger.info("going on after step %d", trainer.step)
        self.folder.start(
            command,
            self.config,
            resume=trainer.resumed,
            step=trainer.step,
            length=trainer.metrics_length,
            # The last one is made in any case: it writes the results.
            keep_evaluation=trainer.step < trainer.total_steps,
        )
        self.tracker = Tracker.start(self.config, self.folder.path, self.folder.read_metrics())

    def evaluate(self) -> Evaluation:
        """Evaluate the model as it is, and record its metrics at the trainer's step."""
        model: Any = self.trainer.evaluated_model
        self.processes.share_buffers(model)
        evaluation = self.evaluator.evaluate(model, self.stop)
        step = self.trainer.step
        metrics = {"kind": "eval", "step": step, "epoch": self.trainer.epoch, **evaluation.summary()}
        self.processes.on_main(lambda: self.folder.append_metrics(metrics))
        if self.processes.is_main:
            self.tracker.log(metrics, step)
            logger.info("step %d: %s", step, summary(metrics))
        return evaluation

    def _conclude(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write the predictions, the results and what is tracked; only then is the run done."""
        results = {
            **evaluation.to_dict(),
            "parameters": self.parameters,
            "training_seconds": self.trainer.training_seconds,
            "iterations": self.trainer.step,
            "processes": self.processes.world_size,
            "peak_memory_mb": peak_memory_mb(self.processes.device),
            "overflows": self.trainer.overflows,
        }
        self.processes.on_main(lambda: self._record(evaluation, results))
        return results

    def _record(self, evaluation: Evaluation, results: dict[str, Any]) -> None:
        evaluation.write(self.folder.predictions)
        self.folder.write_results(results)
        pictures = self.evaluator.pictures(evaluation)
        self.tracker.images(pictures, self.val_data.category_names, self.trainer.step)
        self.tracker.finish(results)
        self.folder.set_status("done")


def build_splits(config: Config) -> tuple[CocoDataset, CocoDataset]:
    """The data to train on and to evaluate on. Raises UserError where they are not fit for it."""
    train_data = build_dataset(config.data, train=True, semantic=config.model.semantic)
    val_data = build_dataset(config.data, train=False, semantic=False)
    check_splits(train_data, val_data)
    return train_data, val_data


def build_model(config: Config, dataset: CocoDataset, processes: Processes, *, resumed: bool = False) -> Detector:
    """The network with its initial weights, the same for a seed on every process, on its device.

    Where the run is `resumed`, a checkpoint of its own brings the weights: the files that it began with are not read.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    if config.deterministic:
        # cuBLAS reads it at the first product of matrices; without it, streams share their workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=processes.device.type == "cuda")
    stored = config.backbone.norm is Norm.frozen_bn or config.backbone.bn_mode is BnMode.stored
    from_scratch = config.backbone.weights is None and config.checkpoint.file is None
    if from_scratch and stored and config.backbone.norm is not Norm.gn:
        logger.warning(
            "backbone.norm=%s with stored statistics and backbone.weights=null normalises nothing: use "
            "backbone.norm=bn backbone.bn_mode=batch or backbone.norm=gn to train from scratch.",
            config.backbone.norm.value,
        )
    if resumed:
        config = replace(config, backbone=replace(config.backbone, weights=None))
    model = build_detector(config, len(dataset.category_ids))
    if config.checkpoint.file is not None and not resumed:
        start_from(model, config, dataset)
    model = model.to(processes.device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload]


def summary(results: dict[str, Any]) -> str:
    """`box AP 0.312, mask AP 0.285`, with a dash where there is no figure."""
    box, mask = (number(mapping(results.get(kind)).get("AP")) for kind in ("bbox", "segm"))
    return ", ".join(f"{name} AP {'-' if ap is None else f'{ap:.3f}'}" for name, ap in (("box", box), ("mask", mask)))


def say(sentence: str, processes: Processes) -> None:
    if processes.is_main:
        print(sentence, flush=True)
