"""One run from its configuration to its results: prepare it, train and evaluate, record how it ended."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htc.checkpoint.files import checkpoint_steps, newest_checkpoint
from htc.config.compose import recorded_config
from htc.config.evaluation import evaluated_data, evaluation_name
from htc.config.schema import BnMode, Config, Norm
from htc.config.signature import to_plain
from htc.data.check.decoding import refuse_unreadable_images
from htc.data.dataset import CocoDataset, build_dataset
from htc.data.fingerprint import fingerprint, refuse_other_content
from htc.data.splits import check_splits
from htc.distributed.devices import to_device, use_threads
from htc.distributed.processes import Processes, start_processes
from htc.engine.continuation import differences_to_one_run
from htc.engine.meters import clock, peak_memory_mb
from htc.engine.stopping import Stopped, StopRequest
from htc.engine.trainer import Trainer
from htc.errors import UserError, memory_errors_as_user_errors
from htc.evaluation.evaluator import Evaluation, Evaluator
from htc.models.detector import Detector, build_detector
from htc.reevaluation import evaluate_model, results_of, write_evaluation
from htc.runs.folder import RunFolder, find_folder
from htc.runs.lock import RunLock
from htc.runs.parent import ParentRun, find_parent, resolve_parent
from htc.runs.record import Parent, RunRecord, SplitFingerprint, Training
from htc.runs.results import ap_summary
from htc.runs.tracking import Tracker
from htc.trained_model import load_trained_model, start_from

logger = logging.getLogger(__name__)

UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


def run_experiment(config: Config, command: list[str], folder: Path | None = None) -> dict[str, Any]:
    """Train, evaluate and record one run, and return its results, as results.json holds them.

    A finished run is left as it is; an interrupted one continues from its newest checkpoint. A trained run that lacks
    the evaluation with the settings of this configuration is evaluated, and not trained again.

    Args:
        config: the run's configuration.
        command: the command line, for the record.
        folder: the run's folder; None: that of the configuration's signature.

    Raises:
        UserError: for what the user can fix; the folder then has the status `failed` and the reason.
    """
    resolve_parent(config)
    processes = start_processes(config.device)
    use_threads(config)
    path, name, trained = processes.on_main(lambda: find_evaluation(config, folder))
    run = RunFolder(path)
    if trained and run.has_results(name):
        results = run.read_results(name)
        print_on_main(
            f"{path} is done already ({ap_summary(results)}); force=true runs it again next to it.", processes
        )
        return results
    lock = RunLock(path)
    with write_errors_as_user_errors(path):
        processes.on_main(lock.acquire)
    try:
        with write_errors_as_user_errors(path):
            if trained:
                results = evaluate_folder(config, run, name, processes)
            else:
                results = run_in_folder(config, run, processes, command)
    finally:
        lock.release()
        processes.close()
    print_on_main(f"{path}: {ap_summary(results)}", processes)
    return results


def find_evaluation(config: Config, folder: Path | None = None) -> tuple[Path, str, bool]:
    """Return the folder of a configuration's run, the name of its evaluation, and whether the run is trained."""
    path = folder or find_folder(config)
    record = RunFolder(path).read(strict=True)
    trained = record.status == "done"
    name = evaluation_name(config, record.evaluated_data or None if trained else None)
    if trained and not RunFolder(path).has_results(name):
        trained = has_final_checkpoint(path, record)
    return path, name, trained


def has_final_checkpoint(path: Path, record: RunRecord) -> bool:
    """Return whether a trained run still has the checkpoint of its end; if it only has earlier ones, it continues.

    Raises UserError where it has none at all: training it again would be a surprise.
    """
    steps = [step for step, _ in checkpoint_steps(RunFolder(path).checkpoints)]
    if not steps:
        raise UserError(
            f"{path} is trained, but its checkpoints are deleted, so it cannot be evaluated again: force=true trains "
            "it again next to it."
        )
    return record.training is None or max(steps) == record.training.iterations


def evaluate_folder(config: Config, folder: RunFolder, name: str, processes: Processes) -> dict[str, Any]:
    """Evaluate a trained run whose lock the main process holds, with the settings of `config`; return the results.

    Args:
        config: the configuration of the evaluation, with the signature of the run.
        folder: the run's folder.
        name: name of the evaluation.
        processes: the processes that share the evaluation.
    """
    stop = StopRequest()
    with recorded_end(folder, processes, stop), stop, memory_errors_as_user_errors():
        processes.on_all(lambda: folder.setup_logging(main=processes.is_main))
        logger.info("trained already; evaluating as %s", name)
        trained = processes.on_all(lambda: load_trained_model({"run": str(folder.path)}, []))
        trained.config = replace(config, backbone=replace(config.backbone, weights=None))
        results = evaluate_model(trained, folder.evaluation(name), processes, stop=stop)
        processes.on_main(lambda: folder.update(error=None))
        return results


def run_in_folder(config: Config, folder: RunFolder, processes: Processes, command: list[str]) -> dict[str, Any]:
    """Run in a folder whose lock the main process holds, record in run.json how the run ends, and return the results.

    Args:
        config: the run's configuration.
        folder: the run's folder.
        processes: the processes of the run.
        command: the command line, for the record.
    """
    stop = StopRequest()
    # Signals are noted from here on: an interrupt at an arbitrary place could leave a lock that nothing releases.
    with recorded_end(folder, processes, stop), stop, memory_errors_as_user_errors():
        processes.on_all(lambda: folder.setup_logging(main=processes.is_main))
        experiment = Experiment(prepare(config, folder, processes, stop))
        raise_if_stopped(processes, stop)
        return experiment.run(command)


# Prepare


@dataclass
class PreparedRun:
    """Everything that a run needs, built and checked."""

    config: Config
    folder: RunFolder
    processes: Processes
    stop: StopRequest
    train_data: CocoDataset
    val_data: CocoDataset
    content: dict[str, SplitFingerprint]
    """Fingerprints of the splits `train` and `val`."""
    model: Detector
    checkpoint: Path | None
    """The run's newest checkpoint; None for a new run."""
    parent: ParentRun | None = None
    """The run that this one continues; None where it has checkpoints of its own."""


def prepare(config: Config, folder: RunFolder, processes: Processes, stop: StopRequest) -> PreparedRun:
    """Read the data and build the network.

    Args:
        config: the run's configuration.
        folder: the run's folder, whose newest checkpoint is found.
        processes: the processes of the run.
        stop: the request to stop that signals set.

    Raises:
        Stopped: on all processes, where one of them was asked to stop meanwhile.
        UserError: for data or weights that cannot be used.
    """
    train_data, val_data = processes.on_all(lambda: build_splits(config))
    raise_if_stopped(processes, stop)
    newest = processes.on_main(lambda: newest_checkpoint(folder.checkpoints))
    parent = None
    if newest is None and config.continue_from is not None:
        parent = processes.on_all(lambda: find_parent(config))
    content = processes.on_main(lambda: content_of(config, folder, train_data, val_data, resumed=newest is not None))
    if parent is not None:
        of_parent = parent.record.data.get("train")
        processes.on_main(lambda: refuse_other_content(of_parent, content["train"], train_data))
    if newest is None:
        processes.on_main(lambda: refuse_unreadable_images(val_data, config.eval.limit, config.data.workers))
    raise_if_stopped(processes, stop)
    resumed = newest is not None or parent is not None
    model = processes.on_all(lambda: build_model(config, train_data, processes, resumed=resumed))
    return PreparedRun(config, folder, processes, stop, train_data, val_data, content, model, newest, parent)


def raise_if_stopped(processes: Processes, stop: StopRequest) -> None:
    """Raise Stopped on all processes where one of them was asked to stop."""
    if any(processes.any(stop.received is not None)):
        raise Stopped


def build_splits(config: Config) -> tuple[CocoDataset, CocoDataset]:
    """Return the training and the validation data. Raises UserError where they cannot be used together."""
    train_data = build_dataset(config.data, train=True, semantic=config.model.semantic)
    val_data = build_dataset(config.data, train=False, semantic=False)
    check_splits(train_data, val_data)
    return train_data, val_data


def content_of(
    config: Config, folder: RunFolder, train_data: CocoDataset, val_data: CocoDataset, *, resumed: bool
) -> dict[str, SplitFingerprint]:
    """Return the fingerprints of both splits. Raises UserError where a run would continue on other data.

    Args:
        config: the run's configuration.
        folder: the run's folder.
        train_data: the training split.
        val_data: the validation split.
        resumed: whether the run continues from a checkpoint.
    """
    content = {"train": fingerprint(train_data), "val": fingerprint(val_data)}
    if resumed:
        record = folder.read(strict=True)
        refuse_other_content(record.data.get("train"), content["train"], train_data)
        if record.evaluated_data == evaluated_data(to_plain(config)):
            refuse_other_content(record.data.get("val"), content["val"], val_data)
    return content


def build_model(config: Config, dataset: CocoDataset, processes: Processes, *, resumed: bool = False) -> Detector:
    """Build the network on its device, with initial weights that the seed determines on every process.

    Args:
        config: the run's configuration.
        dataset: the training data, whose categories the network predicts.
        processes: the processes of the run.
        resumed: whether a checkpoint of the run provides the weights, so that files of initial weights are not read.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    if config.deterministic:
        # cuBLAS reads it at the first matrix product; without it, streams share their workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=processes.device.type == "cuda")
    warn_about_stored_statistics(config)
    if resumed:
        config = replace(config, backbone=replace(config.backbone, weights=None))
    model = build_detector(config, len(dataset.category_ids))
    if config.checkpoint.file is not None and not resumed:
        start_from(model, config, dataset)
    to_device(model, config, processes.device)
    return model


def warn_about_stored_statistics(config: Config) -> None:
    """Warn where training starts from scratch with batch norms that use stored, still neutral statistics."""
    backbone = config.backbone
    stored = backbone.norm is Norm.frozen_bn or backbone.bn_mode is BnMode.stored
    from_scratch = backbone.weights is None and config.checkpoint.file is None
    if from_scratch and stored and backbone.norm is not Norm.gn:
        logger.warning(
            "backbone.norm=%s with stored statistics and backbone.weights=null normalises nothing: use "
            "backbone.norm=bn backbone.bn_mode=batch or backbone.norm=gn to train from scratch.",
            backbone.norm.value,
        )


# Run


class Experiment:
    """A run in progress: trainer, evaluator, and the records that they fill."""

    def __init__(self, run: PreparedRun) -> None:
        self.config, self.folder, self.processes, self.stop = run.config, run.folder, run.processes, run.stop
        self.val_data, self.content = run.val_data, run.content
        self.evaluator = Evaluator(run.config, run.val_data, run.processes)
        self.trainer = Trainer(
            run.config, run.model, run.train_data, run.folder, run.processes, self.evaluate, run.checkpoint, run.stop,
            None if run.parent is None else run.parent.checkpoint,
        )  # fmt: skip
        self.parent = None if run.parent is None else self._compare(run.parent)
        self.tracker = Tracker(None)
        self.parameters = sum(parameter.numel() for parameter in run.model.parameters())
        logger.info(
            "%s: %d training and %d validation images, %.1f M parameters, %d steps, device %s",
            run.folder.path, len(run.train_data), len(run.val_data), self.parameters / 1e6, self.trainer.total_steps,
            run.processes.device,
        )  # fmt: skip

    def run(self, command: list[str]) -> dict[str, Any]:
        """Train, evaluate and record, and return the results."""
        self.processes.on_main(lambda: self._start(command))
        try:
            self.trainer.train(self.tracker)
            logger.info("trained in %s; now evaluating", clock(self.trainer.training_seconds))
            return self._conclude(self.evaluate())
        except BaseException as error:
            preempted = isinstance(error, Stopped | KeyboardInterrupt)
            self.tracker.finish(exit_code=1, preempted=preempted, error=None if preempted else reason_of(error))
            raise

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
            logger.info("step %d: %s", step, ap_summary(metrics))
        return evaluation

    def _compare(self, parent: ParentRun) -> Parent:
        """Return the record of the run that this one continues, and log how both compare with one long run."""
        trainer = self.trainer
        training = parent.record.training
        unequal = differences_to_one_run(
            recorded_config(parent.config, []).schedule, self.config.schedule, parent.step, trainer.steps_per_epoch,
            (training.processes if training is not None else None, self.processes.world_size),
        )  # fmt: skip
        equality = f"unlike one run: {'; '.join(unequal)}" if unequal else "equal to one run, to the last bit"
        if self.processes.device.type != "cpu" and not unequal:
            equality = "equal to one run, but for the rounding of the GPU"
        logger.info(
            "continuing %s after step %d of %d; %s", parent.folder.path.name, parent.step, trainer.total_steps, equality
        )
        return parent.to_record(unequal)

    def _start(self, command: list[str]) -> None:
        trainer = self.trainer
        if trainer.resumed:
            logger.info("continuing after step %d", trainer.step)
        self.folder.start(
            command,
            self.config,
            resume=trainer.resumed,
            step=trainer.step,
            length=trainer.metrics_length,
            # The final evaluation is made again in any case: it writes the results.
            keep_evaluation=trainer.step < trainer.total_steps,
            data=self.content,
            parent=self.parent,
        )
        self.tracker = Tracker.start(self.config, self.folder.path, self.folder.read_metrics())

    def _conclude(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write the predictions, the results and what is tracked; only then is the run done."""
        training = Training(
            parameters=self.parameters,
            training_seconds=self.trainer.training_seconds,
            iterations=self.trainer.step,
            processes=self.processes.world_size,
            peak_memory_mb=peak_memory_mb(self.processes.device),
            overflows=self.trainer.overflows,
        )
        results = results_of(evaluation, self.config, self.trainer.step)
        self.processes.on_main(lambda: self._record(evaluation, results, training))
        return results

    def _record(self, evaluation: Evaluation, results: dict[str, Any], training: Training) -> None:
        out = self.folder.evaluation(evaluation_name(self.config))
        write_evaluation(out, evaluation, results, self.val_data, self.content["val"])
        pictures = self.evaluator.pictures(evaluation)
        self.tracker.images(pictures, self.val_data.category_names, self.trainer.step)
        self.folder.update(training=training)
        self.tracker.finish(results)
        self.folder.set_status("done")


# Record the end


@contextmanager
def recorded_end(folder: RunFolder, processes: Processes, stop: StopRequest) -> Iterator[None]:
    """Record in run.json how the block ends where it does not end well, and exit for a run that was stopped."""
    try:
        yield
    except Stopped:
        record_status(folder, processes, "preempted")
        saved = bool(checkpoint_steps(folder.checkpoints))
        state = "Stopped after saving a checkpoint in" if saved else "Stopped before training, in"
        print_on_main(f"{state} {folder.path}; the same command continues from there.", processes)
        sys.exit(128 + (signal.SIGTERM if saved else stop.received or signal.SIGTERM))
    except KeyboardInterrupt:
        with suppress(OSError, UserError):
            record_status(folder, processes, "preempted")
        print_on_main(f"Interrupted; {folder.path} keeps its files, and the same command continues.", processes)
        sys.exit(128 + signal.SIGINT)
    except BaseException as error:
        if not isinstance(error, UserError | OSError):
            logger.exception("the run failed")
        # On a full or broken disk, recording fails too; the error is raised all the same.
        with suppress(OSError, UserError):
            record_status(folder, processes, "failed", reason_of(error))
        raise


def reason_of(error: BaseException) -> str:
    """Return why a run failed, in one sentence."""
    return error.sentence if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def record_status(folder: RunFolder, processes: Processes, status: str, error: str | None = None) -> None:
    """Record the status on the main process, if the run has a record already.

    Args:
        folder: the run's folder.
        processes: the processes of the run.
        status: one of htc.runs.record.STATUSES.
        error: why the run failed.
    """
    if not processes.is_main or not folder.run_file.is_file():
        return
    if status == "failed":
        folder.fail(error or "no reason was recorded")
    elif not folder.trained:
        folder.set_status(status, error)


@contextmanager
def write_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Raise UserError for the errors of a full disk or a read-only folder; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or path
        raise UserError(
            f"{place} could not be written ({error.strerror}): make room or make the folder writable and start the "
            "same command again, which continues from the last good checkpoint."
        ) from None


def print_on_main(sentence: str, processes: Processes) -> None:
    """Print a sentence on the main process."""
    if processes.is_main:
        print(sentence, flush=True)
