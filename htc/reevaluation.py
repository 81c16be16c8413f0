"""Evaluation of a trained model outside of its training: with other test settings, or on other data."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import htc
from htc.config.compose import recorded_config
from htc.config.evaluation import evaluation_name, evaluation_settings
from htc.config.schema import Config
from htc.config.signature import to_plain
from htc.data.dataset import CocoDataset, build_dataset
from htc.data.fingerprint import fingerprint
from htc.distributed.devices import to_device
from htc.distributed.processes import Processes
from htc.engine.stopping import StopRequest
from htc.evaluation.evaluator import Evaluation, Evaluator
from htc.runs.evaluations import EVALUATIONS_FOLDER, EvaluationFolder
from htc.runs.folder import RunFolder, now
from htc.runs.json_values import number
from htc.runs.provenance import git_facts
from htc.runs.record import SplitFingerprint
from htc.runs.tracking import Tracker
from htc.trained_model import TrainedModel, check_categories


def evaluate_model(
    trained: TrainedModel,
    out: EvaluationFolder,
    processes: Processes,
    *,
    stop: StopRequest | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a model with the settings of its configuration, write predictions and results, and return the results.

    Args:
        trained: the model, with the configuration of the evaluation.
        out: folder of predictions and results.
        processes: the processes that share the evaluation.
        stop: the request to stop that signals set.
        facts: further content of results.json.

    Raises:
        Stopped: on all processes, where one of them was asked to stop.
        UserError: where the data cannot be read, or have other categories than the model.
    """
    config = trained.config
    dataset = processes.on_all(lambda: build_dataset(config.data, train=False, semantic=False))
    check_categories(trained, dataset)
    # Fails now if the folder cannot be written, and not after the evaluation.
    processes.on_main(lambda: out.path.mkdir(parents=True, exist_ok=True))
    to_device(trained.model, config, processes.device).eval()
    evaluator = Evaluator(config, dataset, processes)
    evaluation = evaluator.evaluate(trained.model, stop)
    results = {**results_of(evaluation, config, trained.step), **(facts or {})}
    processes.on_main(lambda: write_evaluation(out, evaluation, results, dataset))
    processes.on_main(lambda: track_evaluation(config, out, evaluator, evaluation))
    return results


def track_evaluation(config: Config, out: EvaluationFolder, evaluator: Evaluator, evaluation: Evaluation) -> None:
    """Add an evaluation to the wandb run of the run that it belongs to, if it belongs to one that was tracked.

    Args:
        config: configuration of the evaluation, whose `wandb.mode` decides.
        out: the evaluation's folder, in that of the run.
        evaluator: what evaluated.
        evaluation: predictions, for pictures: an offline run is written anew, and loses those that it had.
    """
    folder = RunFolder(out.path.parent.parent)
    if out.path.parent.name != EVALUATIONS_FOLDER or folder.read().wandb is None:
        return
    own = recorded_config(folder.read_config(), [])
    tracker = Tracker.start(
        replace(own, wandb=replace(own.wandb, mode=config.wandb.mode)), folder.path, folder.read_metrics()
    )
    if tracker.on:
        names, results = evaluator.dataset.category_names, folder.read_results(evaluation_name(own))
        tracker.images(evaluator.pictures(evaluation), names, int(number(results.get("iterations")) or 0))
        tracker.finish(results)


def results_of(evaluation: Evaluation, config: Config, step: int) -> dict[str, Any]:
    """Return the content of results.json.

    Args:
        evaluation: predictions and metrics.
        config: configuration of the evaluation.
        step: training steps of the evaluated weights.
    """
    return {
        **evaluation.to_dict(),
        "iterations": step,
        "settings": evaluation_settings(to_plain(config)),
        "evaluated": now(),
        "host": socket.gethostname(),
    }


def write_evaluation(
    out: EvaluationFolder, evaluation: Evaluation, results: Mapping[str, Any], dataset: CocoDataset,
    content: SplitFingerprint | None = None,
) -> None:  # fmt: skip
    """Write the predictions, and then the results with what they were computed on and by. Called on the main process.

    Args:
        out: folder of predictions and results.
        evaluation: predictions and metrics.
        results: content of results.json.
        dataset: the evaluated data.
        content: their fingerprint, where it is known already.
    """
    evaluation.write(out.path)
    code = git_facts(Path(htc.__file__).parent) or {}
    out.write(
        {
            **results,
            "annotation_file": str(dataset.annotation_file.absolute()),
            "data": asdict(content or fingerprint(dataset)),
            "git": {key: code.get(key) for key in ("commit", "dirty")},
        }
    )
