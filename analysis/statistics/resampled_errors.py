"""What each kind of error costs a run, on resamples of the images, computed once and kept next to its predictions."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.errors import ERRORS, REPAIRS, error_ap, find_errors
from analysis.statistics.intervals import image_weights
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import Array
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at

VERSION = 1
"""Increased where the numbers change, so that what earlier versions kept is not used."""
COSTS = REPAIRS[1:]


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
        stamp = repr([VERSION, *((each.stat().st_size, each.stat().st_mtime_ns)
                                 for each in (place / "results.json", predictions))])  # fmt: skip
    except OSError as error:
        raise UserError(f"{error.filename} is missing: the errors are found in the predictions.") from None
    if (found := _read_kept(kept, stamp)) is not None:
        return found
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
    made = RunErrors(
        float(unit.metric("")[0]),
        np.array([unit.cost(name)[0] for name in COSTS]),
        np.concatenate([np.stack([chunk.cost(name) for name in COSTS], axis=1) for chunk in chunks]),
        errors.counts(),
        of_categories,
        truth.category_names,
    )
    _keep(kept, stamp, made)
    return made


def _read_kept(path: Path, stamp: str) -> RunErrors | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["stamp"]) != stamp:
                return None
            return RunErrors(
                float(kept["ap"]), kept["costs"], kept["resampled"],
                dict(zip(ERRORS, kept["counts"].tolist(), strict=True)), kept["by_category"],
                kept["categories"].tolist(),
            )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, stamp: str, made: RunErrors) -> None:
    """Write what was computed; in a folder of another user, it is computed again next time."""
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    with suppress(OSError):
        np.savez_compressed(
            temporary, stamp=np.array(stamp), ap=made.ap, costs=made.costs, resampled=made.resampled,
            counts=np.array([made.counts[name] for name in ERRORS]), by_category=made.by_category,
            categories=np.array(made.categories, dtype=str),
        )  # fmt: skip
        temporary.replace(path)
