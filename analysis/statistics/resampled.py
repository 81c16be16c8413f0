"""The metrics of a run on resamples of the images, computed once and kept next to its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.intervals import image_weights
from analysis.statistics.kept import keep, read_kept, stamp_of
from analysis.statistics.matching import Matches, match_file
from analysis.statistics.truth import BOUNDARY, KINDS, Array, Truth, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap, weighted_ap
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at
from htc.runs.files import sha256_of
from htc.runs.json_values import mapping, text, whole_number

KEYS = [f"{kind}.{metric}" for kind in KINDS for metric in METRICS]
"""Names of the metrics, such as `segm.AP75`."""
BOUNDARY_KEYS = [f"{BOUNDARY}.{metric}" for metric in METRICS]
"""Metrics on request."""
VERSION = 2
"""Increased where the numbers change, so that what earlier versions kept is not used."""
ARRAYS = ("values", "resampled", "names", "objects", "category_values", "category_resampled")
"""Names of what is kept: of the metrics, and of the categories."""
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


@dataclass
class ResampledCategories:
    """AP of a run by category, in 0..1; NaN without objects."""

    names: list[str]
    objects: Array
    """[K] number of objects that count."""
    values: Array
    """[K] on the images as they are."""
    resampled: Array
    """[K, R] on resamples of the images."""


@dataclass
class _Resampled:
    """All of one kind of detections."""

    values: Array
    """[M] by METRICS."""
    resampled: Array
    """[M, R]"""
    categories: ResampledCategories

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> _Resampled:
        """Return what the arrays hold, by ARRAYS."""
        names, objects, values, resampled = (arrays[name] for name in ARRAYS[2:])
        categories = ResampledCategories(names.tolist(), objects, values, resampled)
        return cls(arrays["values"], arrays["resampled"], categories)


class Resampler:
    """Evaluates runs on common resamples of the images; ground truth is read once."""

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        """Make `resamples` resamples; with 0, runs have values on the images as they are, and nothing else."""
        self.resamples, self.seed = resamples, seed
        self._truths: dict[tuple[Path, int], Truth] = {}

    def run(
        self, folder: Path, evaluation: str, results: Mapping[str, Any], kinds: Sequence[str] = KINDS
    ) -> ResampledRun:
        """Return the metrics of a run, from what was kept, or else from its predictions.

        Args:
            folder: the run's folder.
            evaluation: name of the evaluation.
            results: content of its results.json.
            kinds: some of `bbox`, `segm` and `boundary`.

        Raises:
            UserError: where predictions or annotations are missing, or were changed since the evaluation.
        """
        images, _ = _facts(folder, evaluation, results)
        found = ResampledRun({}, {}, images)
        for kind in kinds:
            of_kind = self._resampled(folder, evaluation, results, kind)
            for index, metric in enumerate(METRICS):
                found.values[f"{kind}.{metric}"] = float(of_kind.values[index])
                found.resampled[f"{kind}.{metric}"] = of_kind.resampled[index]
        return found

    def categories(self, folder: Path, evaluation: str, results: Mapping[str, Any], kind: str) -> ResampledCategories:
        """Return the AP of a run by category, with the arguments and errors of `run`."""
        return self._resampled(folder, evaluation, results, kind).categories

    def _resampled(self, folder: Path, evaluation: str, results: Mapping[str, Any], kind: str) -> _Resampled:
        place = evaluation_at(folder, evaluation)
        images, _ = _facts(folder, evaluation, results)
        kept = place.path / f"resamples-{kind}-{self.resamples}-{self.seed}.npz"
        stamp = self._stamp(place.path, place.results_file)
        if (arrays := read_kept(kept, stamp, ARRAYS)) is not None:
            return _Resampled.of(arrays)
        matches = self.matches(folder, evaluation, results, kind)
        unit = unit_ap(matches)
        self._check(unit.metric("AP")[0], kind, results, place.path)
        drawn = [weighted_ap(matches, weights) for weights in image_weights(images, self.resamples, self.seed)]
        chunks = [unit, *drawn]
        number = range(len(matches.categories))
        of_metrics = np.array([np.concatenate([chunk.metric(metric) for chunk in chunks]) for metric in METRICS])
        of_categories = np.array(
            [np.concatenate([chunk.per_category("AP", [index]) for chunk in chunks]) for index in number]
        ).reshape(len(number), 1 + self.resamples)
        objects = np.array([int(category.object_counts[0].sum()) for category in matches.categories], dtype=np.int64)
        arrays = {
            "values": of_metrics[:, 0], "resampled": of_metrics[:, 1:],
            "names": np.array(matches.truth.category_names, dtype=str), "objects": objects,
            "category_values": of_categories[:, 0], "category_resampled": of_categories[:, 1:],
        }  # fmt: skip
        keep(kept, stamp, arrays)
        return _Resampled.of(arrays)

    def truth(self, folder: Path, evaluation: str, results: Mapping[str, Any]) -> Truth:
        """Return the ground truth of an evaluation, with the arguments and errors of `run`."""
        images, annotations = _facts(folder, evaluation, results)
        return self._truth(annotations, images, mapping(results.get("data")))

    def matches(self, folder: Path, evaluation: str, results: Mapping[str, Any], kind: str) -> Matches:
        """Return the detections of an evaluation, matched with its ground truth; errors are those of `run`.

        kind: `bbox`, `segm` or `boundary`.
        """
        truth = self.truth(folder, evaluation, results)
        file = "segm" if kind == BOUNDARY else kind
        return match_file(evaluation_at(folder, evaluation).path / f"{file}.json", truth, kind)

    def _truth(self, path: Path, images: int, data: Mapping[str, Any]) -> Truth:
        if (path, images) not in self._truths:
            recorded = text(data.get("annotations"))
            try:
                found = sha256_of(path)
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
            return stamp_of(VERSION, (results_file, *(folder / f"{kind}.json" for kind in KINDS)))
        except OSError as error:
            raise UserError(f"{error.filename} is missing: intervals need the predictions.") from None

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
