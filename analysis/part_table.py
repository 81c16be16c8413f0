"""Tables of parts of a metric: AP by category, or by size of the objects, of each row, compared with the base row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.intervals import Comparison, adjusted, compare, mark_of, pooled_variance
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import BOUNDARY, Array
from analysis.study import Study, StudyRow, images_of, stat_of
from analysis.table_rows import Stat
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at
from htc.runs.json_values import mapping

CATEGORIES, SIZES = "categories", "sizes"
OF_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
"""COCO's metrics by size of the objects."""


@dataclass
class Part:
    """The AP of one row on one category or size of objects."""

    name: str
    row: str
    """Label of the row."""
    objects: int | None
    """Number of objects of a category; None where it is not known, and for sizes."""
    stat: Stat
    """In percent."""
    delta: float | None = None
    """Difference to the base row; None for the base row, and where it cannot be compared."""
    comparison: Comparison | None = None
    p_value: float | None = None
    """Of the difference with methods trained anew, adjusted for all differences of the table (Holm)."""

    @property
    def mark(self) -> str:
        """`*` where the difference to the base row is significant, `°` where it is so for these checkpoints alone."""
        return mark_of(self.comparison, self.p_value)


@dataclass
class PartTable:
    """The AP of the rows of a sweep by category or size: the rows of one part below each other."""

    sweep: str
    by: str
    """CATEGORIES or SIZES."""
    kind: str
    """`bbox`, `segm` or `boundary`."""
    base: str
    parts: list[Part]
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Values:
    """The parts of the runs of one row, in percent."""

    names: list[str]
    objects: list[int | None]
    values: Array
    """[n, P], NaN without objects."""
    resampled: Array | None
    """[n, P, R]; None without intervals."""


def build_parts(study: Study, by: str, pool: Path, evaluation: str, resampler: Resampler | None) -> PartTable:
    """Return a table of parts of the rows of a study, of the kind of its metric.

    Args:
        study: the sweep, with its base row and, for intervals, its runs on resamples.
        by: CATEGORIES or SIZES.
        pool: folder of runs.
        evaluation: name of the evaluation.
        resampler: makes the resamples of the images; None for a table without intervals.
    """
    kind = study.metric.split(".")[0]
    table = PartTable(study.sweep, by, kind, study.base, [])
    read = _categories if by == CATEGORIES else _sizes
    # Another system may have boxes only, or masks only.
    needed = "box_AP" if kind == "bbox" else "mask_AP"
    found: list[tuple[StudyRow, _Values]] = []
    for row in study.rows:
        if row.runs and needed in row.stats:
            try:
                found.append((row, read(row, pool, evaluation, kind, resampler)))
            except UserError as error:
                table.remarks.append(f"'{row.label}' is not shown: {error.sentence}")
    base = next((values for row, values in found if row.label == study.base), None)
    of_base = next((row for row, _ in found if row.label == study.base), None)
    names = list(dict.fromkeys(name for _, values in found for name in values.names))
    for name in names:
        having = [(row, values, values.names.index(name)) for row, values in found if name in values.names]
        known = [each for each in having if not np.isnan(each[1].values[:, each[2]]).any()]
        pooled = pooled_variance([values.values[:, place] for _, values, place in known])
        for row, values, place in known:
            own = values.values[:, place]
            part = Part(name, row.label, values.objects[place], stat_of(own))
            table.parts.append(part)
            if base is None or of_base is None or row is of_base or name not in base.names:
                continue
            other = base.names.index(name)
            if images_of(row) != images_of(of_base) or np.isnan(base.values[:, other]).any():
                continue
            part.delta = float(own.mean() - base.values[:, other].mean())
            if values.resampled is not None and base.resampled is not None:
                part.comparison = compare(
                    own, base.values[:, other], values.resampled[:, place], base.resampled[:, other],
                    row.runs[0].images or 1, pooled,
                )  # fmt: skip
    for part, p_value in zip(table.parts, adjusted([part.comparison for part in table.parts]), strict=True):
        part.p_value = p_value
    return table


def _categories(row: StudyRow, pool: Path, evaluation: str, kind: str, resampler: Resampler | None) -> _Values:
    results = _results(row, pool, evaluation)
    if resampler is None and kind != BOUNDARY:
        recorded = [mapping(mapping(each.get("per_category")).get(kind)) for each in results]
        if not all(recorded):
            raise UserError("its results do not have the AP by category.")
        names = list(recorded[0])
        values = [[_percent(each.get(name)) for name in names] for each in recorded]
        return _Values(names, [None] * len(names), np.array(values).reshape(len(results), len(names)), None)
    maker = resampler or Resampler(0)
    found = [
        maker.categories(pool / run.folder, evaluation, each, kind) for run, each in zip(row.runs, results, strict=True)
    ]
    if any(each.names != found[0].names for each in found):
        raise UserError("its runs were evaluated on different categories.")
    return _Values(
        found[0].names,
        found[0].objects.tolist(),
        100 * np.stack([each.values for each in found]),
        None if resampler is None else 100 * np.stack([each.resampled for each in found]),
    )


def _sizes(row: StudyRow, pool: Path, evaluation: str, kind: str, resampler: Resampler | None) -> _Values:
    results = _results(row, pool, evaluation)
    names: list[str] = list(OF_SIZES.values())
    if resampler is None and kind != BOUNDARY:
        values = [[_percent(mapping(each.get(kind)).get(metric)) for metric in OF_SIZES] for each in results]
        return _Values(names, [None] * len(names), np.array(values), None)
    maker, kinds = resampler or Resampler(0), (kind,)
    found = [maker.run(pool / run.folder, evaluation, each, kinds) for run, each in zip(row.runs, results, strict=True)]
    keys = [f"{kind}.{metric}" for metric in OF_SIZES]
    return _Values(
        names,
        [None] * len(names),
        100 * np.array([[each.values[key] for key in keys] for each in found]),
        None if resampler is None else 100 * np.stack([[each.resampled[key] for key in keys] for each in found]),
    )


def _results(row: StudyRow, pool: Path, evaluation: str) -> list[dict[str, Any]]:
    return [evaluation_at(pool / run.folder, evaluation).read() for run in row.runs]


def _percent(value: Any) -> float:
    """Return a recorded metric in percent; NaN for null, which stands for no objects."""
    return 100 * float(value) if isinstance(value, int | float) and value >= 0 else math.nan
