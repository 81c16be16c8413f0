"""The metrics of a run on resamples of the images, computed once and kept next to its predictions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.intervals import image_weights
from analysis.statistics.matching import Matches, match_file
from analysis.statistics.truth import KINDS, Array, Truth, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap, weighted_ap
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at
from htc.runs.json_values import mapping, text, whole_number

KEYS = [f"{kind}.{metric}" for kind in KINDS for metric in METRICS]
"""Names of the metrics, such as `segm.AP75`."""
VERSION = 1
"""Increased where the numbers change, so that what earlier versions kept is not used."""
EQUAL = 1e-6
"""Largest difference to the recorded AP, in 0..1, with which predictions and annotations still belong together."""


@dataclass
class ResampledRun:
    """Metrics of a run, in 0..1."""

    values: dict[str, float]
    """By KEYS, on the images as they are; NaN without objects."""
    resampled: dict[str, Array]
    """[R] by KEYS, on resamples of the images."""
    images: int

    @classmethod
    def from_arrays(cls, values: Array, resampled: Array, images: int) -> ResampledRun:
        return cls(
            {key: float(value) for key, value in zip(KEYS, values, strict=True)},
            dict(zip(KEYS, resampled, strict=True)),
            images,
        )


class Resampler:
    """Evaluates runs on common resamples of the images; ground truth is read once."""

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self._truths: dict[tuple[Path, int], Truth] = {}

    def run(self, folder: Path, evaluation: str, results: Mapping[str, Any]) -> ResampledRun:
        """Return the metrics of a run, from what was kept, or else from its predictions.

        Args:
            folder: the run's folder.
            evaluation: name of the evaluation.
            results: content of its results.json.

        Raises:
            UserError: where predictions or annotations are missing, or were changed since the evaluation.
        """
        place = evaluation_at(folder, evaluation)
        images, _ = _facts(folder, evaluation, results)
        kept = place.path / f"resamples-{self.resamples}-{self.seed}.npz"
        stamp = self._stamp(place.path, place.results_file)
        if (found := _read_kept(kept, stamp)) is not None:
            return ResampledRun.from_arrays(*found, images)
        values, resampled = [], []
        for kind in KINDS:
            matches = self.matches(folder, evaluation, results, kind)
            unit = unit_ap(matches)
            self._check(unit.metric("AP")[0], kind, results, place.path)
            chunks = [weighted_ap(matches, weights) for weights in image_weights(images, self.resamples, self.seed)]
            values += [unit.metric(metric)[0] for metric in METRICS]
            resampled += [np.concatenate([chunk.metric(metric) for chunk in chunks]) for metric in METRICS]
        _keep(kept, stamp, np.array(values), np.array(resampled))
        return ResampledRun.from_arrays(np.array(values), np.array(resampled), images)

    def truth(self, folder: Path, evaluation: str, results: Mapping[str, Any]) -> Truth:
        """Return the ground truth of an evaluation, with the arguments and errors of `run`."""
        images, annotations = _facts(folder, evaluation, results)
        return self._truth(annotations, images, mapping(results.get("data")))

    def matches(self, folder: Path, evaluation: str, results: Mapping[str, Any], kind: str) -> Matches:
        """Return the detections of an evaluation, matched with its ground truth; errors are those of `run`.

        kind: `bbox` or `segm`.
        """
        truth = self.truth(folder, evaluation, results)
        return match_file(evaluation_at(folder, evaluation).path / f"{kind}.json", truth, kind)

    def _truth(self, path: Path, images: int, data: Mapping[str, Any]) -> Truth:
        if (path, images) not in self._truths:
            recorded = text(data.get("annotations"))
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}): intervals need the annotations.") from None
            if recorded is not None and recorded != found:
                raise UserError(
                    f"{path} has changed since the evaluation: intervals need the annotations as they were."
                )
            self._truths[path, images] = read_truth(path, images)
        return self._truths[path, images]

    def _stamp(self, folder: Path, results_file: Path) -> str:
        """Return a text that changes with the predictions, and with the way in which they are resampled."""
        try:
            facts = [path.stat() for path in (results_file, *(folder / f"{kind}.json" for kind in KINDS))]
        except OSError as error:
            raise UserError(f"{error.filename} is missing: intervals need the predictions.") from None
        return repr([VERSION, *((each.st_size, each.st_mtime_ns) for each in facts)])

    @staticmethod
    def _check(value: float, kind: str, results: Mapping[str, Any], folder: Path) -> None:
        recorded = mapping(results.get(kind)).get("AP")
        if isinstance(recorded, int | float) and not abs(value - recorded) <= EQUAL:
            raise UserError(
                f"{folder / kind}.json has AP {100 * value:.2f} on its annotations, and results.json says "
                f"{100 * recorded:.2f}: one of the files was changed."
            )


def _facts(folder: Path, evaluation: str, results: Mapping[str, Any]) -> tuple[int, Path]:
    """Return the number of evaluated images and the annotation file. Raises UserError where they are not recorded."""
    images = whole_number(results.get("images_evaluated"))
    annotations = text(results.get("annotation_file"))
    if images is None or annotations is None:
        raise UserError(
            f"{evaluation_at(folder, evaluation).results_file} does not name its annotations: "
            f"python -m htc.evaluate run={folder} eval={evaluation} makes it again."
        )
    return images, Path(annotations)


def _read_kept(path: Path, stamp: str) -> tuple[Array, Array] | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return (kept["values"], kept["resampled"]) if str(kept["stamp"]) == stamp else None
    except (OSError, ValueError, KeyError):
        return None


def _keep(path: Path, stamp: str, values: Array, resampled: Array) -> None:
    """Write what was computed; in a folder of another user, it is computed again next time."""
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    with suppress(OSError):
        np.savez_compressed(temporary, stamp=np.array(stamp), values=values, resampled=resampled)
        temporary.replace(path)
