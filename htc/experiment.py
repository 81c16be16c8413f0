"""One run from its configuration to its results: prepare, train, evaluate, record."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import torch

from htc.config import BnMode, Config, Norm
from htc.data.coco import CocoDataset, build_dataset
from htc.engine.distributed import Processes, start_processes
from htc.engine.evaluation import Evaluator
from htc.engine.meters import clock, peak_memory_mb
from htc.engine.records import RunFolder, find_folder
from htc.engine.tracking import Tracker
from htc.engine.train import Stopped, Trainer
from htc.errors import UserError
from htc.models.detector import Detector, build_detector

log = logging.getLogger(__name__)


def run_experiment(config: Config, command: list[str]) -> dict[str, Any]:
    """Train, evaluate and record one run -> its results, as results.json holds them.

    A finished run is left as it is; an interrupted one goes on from its newest checkpoint. Raises UserError for what
    the user can mend; the folder then says `failed` and why.
    """
    processes = start_processes(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    path, done = processes.gather(find_folder(config))[0]
    folder = RunFolder(path)
    if done:
        results = folder.read_results()
        say(f"{path} is done already ({summary(results)}); force=true runs it anew beside it.", processes)
        return results
    folder.setup_logging(main=processes.is_main)
    try:
        results = _run(config, command, folder, processes)
    except Stopped:
        if processes.is_main:
            folder.set_status("preempted")
        say(f"Stopped after saving a checkpoint in {path}; the same command goes on from there.", processes)
        sys.exit(128 + signal.SIGTERM)
    except BaseException as error:
        if processes.is_main and folder.run_file.is_file():
            reason = error.sentence if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            folder.set_status("failed", reason)
        if not isinstance(error, UserError):
            log.exception("the run failed")
        raise
    finally:
        processes.close()
    say(f"{path}: {summary(results)}", processes)
    return results


def _run(config: Config, command: list[str], folder: RunFolder, processes: Processes) -> dict[str, Any]:
    train_data = build_dataset(config.data, train=True, semantic=config.model.semantic)
    val_data = build_dataset(config.data, train=False, semantic=False)
    model = build_model(config, train_data, processes)
    evaluator = Evaluator(config, val_data, processes)

    def evaluate_midway(step: int, epoch: float) -> None:
        result = evaluator.evaluate(model)
        if processes.is_main:
            metrics = {"kind": "eval", "step": step, "epoch": epoch, **result.summary()}
            folder.append_metrics(metrics)
            tracker.log(metrics, step)

    trainer = Trainer(config, model, train_data, folder, processes, evaluate_midway)
    if processes.is_main:
        folder.start(command, config, resume=trainer.resumed, step=trainer.step)
    tracker = Tracker.start(config, folder.path) if processes.is_main else Tracker(None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info(
        "%s: %d training and %d validation images, %.1f M parameters, %d steps, device %s",
        folder.path, len(train_data), len(val_data), parameters / 1e6, trainer.total_steps, processes.device,
    )  # fmt: skip
    if trainer.resumed:
        log.info("going on after step %d", trainer.step)
    trainer.train(tracker)
    log.info("trained in %s; evaluating %d images", clock(trainer.training_seconds), len(evaluator.indices))
    result = evaluator.evaluate(model)
    results = {
        **result.to_dict(),
        "parameters": parameters,
        "training_seconds": trainer.training_seconds,
        "iterations": trainer.step,
        "peak_memory_mb": peak_memory_mb(processes.device),
    }
    if processes.is_main:
        metrics = {"kind": "eval", "step": trainer.step, "epoch": trainer.epoch, **result.summary()}
        folder.append_metrics(metrics)
        tracker.log(metrics, trainer.step)
        result.write(folder.predictions)
        tracker.images(evaluator.pictures(result), val_data.category_names, trainer.step)
        folder.write_results(results)
        folder.set_status("done")
        tracker.finish(results)
    return results


def build_model(config: Config, dataset: CocoDataset, processes: Processes) -> Detector:
    """The network with its initial weights, the same for a seed on every process, on its device."""
    torch.manual_seed(config.seed)
    if config.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=processes.device.type == "cuda")
    if config.backbone.weights is None and config.backbone.norm is Norm.bn and config.backbone.bn_mode is BnMode.stored:
        log.warning(
            "backbone.norm=bn with stored statistics and backbone.weights=null normalises nothing: use "
            "backbone.bn_mode=batch or backbone.norm=gn to train from scratch."
        )
    model = build_detector(config, len(dataset.category_ids)).to(processes.device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload]


def summary(results: dict[str, Any]) -> str:
    """`box AP 0.312, mask AP 0.285`, with a dash where there is no figure."""
    box, mask = (results.get(kind, {}).get("AP") for kind in ("bbox", "segm"))
    return ", ".join(f"{name} AP {'-' if ap is None else f'{ap:.3f}'}" for name, ap in (("box", box), ("mask", mask)))


def say(sentence: str, processes: Processes) -> None:
    if processes.is_main:
        print(sentence, flush=True)
