"""What each kind of error costs a run, on resamples of the images, computed once and kept next to its predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.errors import ERRORS, REPAIRS, error_ap, find_errors
from analysis.statistics.intervals import image_weights
from analysis.statistics.kept import keep, read_kept, stamp_of
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import Array
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at

VERSION = 1
"""Increased where the numbers change, so that what earlier versions kept is not used."""
COSTS = REPAIRS[1:]
ARRAYS = ("ap", "costs", "resampled", "counts", "by_category", "categories")
"""Names of what is kept."""


@dataclass
class RunErrors:
    """AP50 of a run and what errors cost it, in 0..1, for boxes or for masks."""

    ap: float
    costs: Array
    """[C] by COSTS."""
    resampled: Array
    """[R, C] on resamples of the images."""
    counts: dict[str, int]
    """Number of errors of each kind of ERRORS."""
    by_category: Array
    """[1 + C, K] AP50 and costs of each category; NaN where it has neither objects nor detections."""
    categories: list[str]

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> RunErrors:
        """Return what the arrays hold, by ARRAYS."""
        counts = dict(zip(ERRORS, arrays["counts"].tolist(), strict=True))
        return cls(
            float(arrays["ap"]), arrays["costs"], arrays["resampled"], counts, arrays["by_category"],
            arrays["categories"].tolist(),
        )  # fmt: skip


def run_errors(folder: Path, evaluation: str, results: Mapping[str, Any], kind: str, resampler: Resampler) -> RunErrors:
    """Return the errors of a run, from what was kept, or else from its predictions.

    Args:
        folder: the run's folder.
        evaluation: name of the evaluation.
        results: content of its results.json.
        kind: `bbox` or `segm`.
        resampler: reads the ground truth, and has number and seed of the resamples.

    Raises:
        UserError: where predictions or annotations are missing, or were changed since the evaluation.
    """
    place = evaluation_at(folder, evaluation).path
    kept = place / f"errors-{kind}-{resampler.resamples}-{resampler.seed}.npz"
    predictions = place / f"{kind}.json"
    try:
        stamp = stamp_of(VERSION, (place / "results.json", predictions))
    except OSError as error:
        raise UserError(f"{error.filename} is missing: the errors are found in the predictions.") from None
    if (arrays := read_kept(kept, stamp, ARRAYS)) is not None:
        return RunErrors.of(arrays)
    truth = resampler.truth(folder, evaluation, results)
    try:
        errors = find_errors(json.loads(predictions.read_bytes()), truth, kind)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{predictions} cannot be read as results of COCO's format ({type(error).__name__}: {error})."
        ) from None
    unit = error_ap(errors, np.ones((1, len(truth.image_ids)), dtype=np.float32))
    chunks = [
        error_ap(errors, weights)
        for weights in image_weights(len(truth.image_ids), resampler.resamples, resampler.seed)
    ]
    of_categories = unit.values[0].copy()
    of_categories[1:] -= of_categories[0]
    counts = errors.counts()
    arrays = {
        "ap": unit.metric("")[0], "costs": np.array([unit.cost(name)[0] for name in COSTS]),
        "resampled": np.concatenate([np.stack([chunk.cost(name) for name in COSTS], axis=1) for chunk in chunks]),
        "counts": np.array([counts[name] for name in ERRORS]), "by_category": of_categories,
        "categories": np.array(truth.category_names, dtype=str),
    }  # fmt: skip
    keep(kept, stamp, arrays)
    return RunErrors.of(arrays)
