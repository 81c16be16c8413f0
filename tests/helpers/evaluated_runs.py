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

Content = dict[str, Any]
Known = dict[str, float | None]


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
