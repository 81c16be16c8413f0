"""Evaluations on disk with annotations, predictions and the metrics that follow from them, for runs of `run_writer`."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from analysis.statistics.matching import match
from analysis.statistics.truth import KINDS, Truth, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap
from htc.runs.evaluations import evaluation_folder
from htc.runs.pool import SelectedRun, change_rows
from tests.analysis.statistics.detections import random_results, random_truth
from tests.helpers.run_folders import WriteRun

Content = dict[str, Any]
Known = dict[str, float | None]
OF_RESULTS = ("image_id", "category_id", "segmentation")


def write_two_rows(runs: Path, write_run: WriteRun, folder: Path, *, category: str = "c1", seeds: int = 2) -> Path:
    """Write a sweep `flow` of two rows, `plain` and `flow | with`, whose masks are perfect; return its annotations.

    Args:
        runs: folder of runs.
        write_run: writes a run folder there.
        folder: folder of the annotation file.
        category: name of the first of three categories.
        seeds: runs per row.
    """
    truth = random_truth(0, images=20)
    truth["categories"][0]["name"] = category
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(truth))
    rows = []
    for label, on in (("plain", False), ("flow | with", True)):
        for seed in range(seeds):
            git = {"commit": "0123456789abcdef", "dirty": False}
            run = write_run(seed=seed, sweep=None, mask_flow=on, git=git, images=20)
            record = json.loads((run / "run.json").read_text())
            command = f"python -m htc.run model.mask_flow={str(on).lower()} wandb.api_key=hunter2 seed={seed}"
            (run / "run.json").write_text(json.dumps({**record, "command": command, "devices": ["Example GPU"]}))
            bbox, segm = random_results(truth, 10 * on + seed)
            if on:
                segm = [{key: each[key] for key in OF_RESULTS} | {"score": 1.0} for each in truth["annotations"]]
            write_predictions(run, annotations, {"bbox": bbox, "segm": segm})
            rows.append(SelectedRun(run.name, label))
    change_rows(runs, "flow", lambda _: rows)
    return annotations


def write_predictions(
    run: Path, annotations: Path, predictions: dict[str, list[Content]], evaluation: str = "default"
) -> None:
    """Give the evaluation of a run predictions, and the metrics that they have.

    Args:
        run: the run's folder, with results.
        annotations: the annotation file.
        predictions: results in COCO's format, by `bbox` and `segm`.
        evaluation: name of the evaluation.
    """
    folder = evaluation_folder(run, evaluation)
    truth = read_truth(annotations)
    results = folder.read()
    for kind in KINDS:
        (folder.path / f"{kind}.json").write_text(json.dumps(predictions[kind]))
        results[kind], results["per_category"][kind] = metrics_of(predictions[kind], truth, kind)
    folder.write(
        {
            **results,
            "images_evaluated": len(truth.image_ids),
            "annotation_file": str(annotations.absolute()),
            "data": {"annotations": hashlib.sha256(annotations.read_bytes()).hexdigest()},
        }
    )


def metrics_of(
    predictions: list[Content], truth: Truth, kind: str
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return metrics in 0..1, and AP by category; None without objects."""
    unit = unit_ap(match(predictions, truth, kind))
    values = {metric: float(unit.metric(metric)[0]) for metric in METRICS}
    of_category = {name: float(unit.per_category("AP", [i])[0]) for i, name in enumerate(truth.category_names)}
    return _known(values), _known(of_category)


def _known(values: dict[str, float]) -> Known:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
