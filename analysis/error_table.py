"""The table of errors of a sweep: what each kind of error costs each row, and where that differs from the base row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis.runs import Run
from analysis.statistics.intervals import Comparison, adjusted, compare, mark_of, pooled_variance
from analysis.statistics.resampled import Resampler
from analysis.statistics.resampled_errors import COSTS, RunErrors, run_errors
from analysis.statistics.truth import KINDS
from analysis.study import Study, StudyRow, images_of, stat_of, table_key
from analysis.table_rows import Stat
from htc.errors import UserError
from htc.runs.evaluations import evaluation_at

AP = "AP50"


@dataclass
class Cost:
    """What one kind of error costs a row."""

    stat: Stat
    """In points of AP50."""
    number: float | None
    """Mean number of these errors per run; None for the repairs of one side."""
    comparison: Comparison | None = None
    """Difference to the base row; None for the base row."""
    p_value: float | None = None
    """Of the difference with methods trained anew, adjusted for all differences of the table (Holm)."""

    @property
    def mark(self) -> str:
        """`*` where the difference to the base row is significant, `°` where it is so for these checkpoints alone."""
        return mark_of(self.comparison, self.p_value)


@dataclass
class ErrorRow:
    """The errors of one row, boxes or masks."""

    kind: str
    """`bbox` or `segm`."""
    label: str
    ap: Stat
    """AP50 in percent."""
    costs: dict[str, Cost]
    """By COSTS."""
    categories: dict[str, dict[str, Stat]] = field(default_factory=dict)
    """By category: AP50 and costs in percent."""


@dataclass
class ErrorTable:
    """The errors of the rows of a sweep."""

    sweep: str
    base: str
    rows: list[ErrorRow]
    remarks: list[str] = field(default_factory=list)


def build_errors(study: Study, pool: Path, evaluation: str, resampler: Resampler) -> ErrorTable:
    """Return the errors of the rows of a study.

    Args:
        study: the sweep, with its base row.
        pool: folder of runs.
        evaluation: name of the evaluation.
        resampler: makes the resamples of the images.
    """
    table = ErrorTable(study.sweep, study.base, [])
    shown = [row for row in study.rows if row.runs]
    base = next((row for row in shown if row.label == study.base), None)
    for kind in reversed(KINDS):
        found: dict[int, list[RunErrors]] = {}
        for index, row in enumerate(shown):
            if any(math.isnan(run.metrics.get(table_key(f"{kind}.AP"), math.nan)) for run in row.runs):
                # Another system may have boxes only, or masks only.
                continue
            try:
                found[index] = [_errors(run, pool, evaluation, kind, resampler) for run in row.runs]
            except UserError as error:
                table.remarks.append(f"'{row.label}' has no errors of {_words(kind)}: {error.sentence}")
        table.rows += _rows(shown, found, base, kind)
    costs = [cost for row in table.rows for cost in row.costs.values()]
    for cost, p_value in zip(costs, adjusted([cost.comparison for cost in costs]), strict=True):
        cost.p_value = p_value
    return table


def _words(kind: str) -> str:
    return "masks" if kind == "segm" else "boxes"


def _errors(run: Run, pool: Path, evaluation: str, kind: str, resampler: Resampler) -> RunErrors:
    folder = pool / run.folder
    return run_errors(folder, evaluation, evaluation_at(folder, evaluation).read(), kind, resampler)


def _rows(
    shown: Sequence[StudyRow], found: dict[int, list[RunErrors]], base: StudyRow | None, kind: str
) -> list[ErrorRow]:
    """Return the rows of boxes, or of masks."""
    values = {index: 100 * np.stack([run.costs for run in runs]) for index, runs in found.items()}
    resampled = {index: 100 * np.stack([run.resampled for run in runs]) for index, runs in found.items()}
    of_base = next((index for index in found if shown[index] is base), None)
    rows = []
    for index, runs in found.items():
        costs = {}
        for place, name in enumerate(COSTS):
            own = values[index][:, place]
            number = float(np.mean([run.counts[name] for run in runs])) if name in runs[0].counts else None
            costs[name] = Cost(stat_of(own), number)
            if of_base is not None and index != of_base and images_of(shown[index]) == images_of(shown[of_base]):
                pooled = pooled_variance([each[:, place] for each in values.values()])
                costs[name].comparison = compare(
                    own, values[of_base][:, place], resampled[index][..., place], resampled[of_base][..., place],
                    shown[index].runs[0].images or 1, pooled,
                )  # fmt: skip
        ap = stat_of(np.array([100 * run.ap for run in runs]))
        rows.append(ErrorRow(kind, shown[index].label, ap, costs, _by_category(runs)))
    return rows


def _by_category(runs: Sequence[RunErrors]) -> dict[str, dict[str, Stat]]:
    """Return AP50 and costs in percent by category; a category that no run has anything of is left out."""
    found: dict[str, dict[str, Stat]] = {}
    for index, category in enumerate(runs[0].categories):
        for place, name in enumerate((AP, *COSTS)):
            own = np.array([100 * run.by_category[place, index] for run in runs])
            if not np.isnan(own).any():
                found.setdefault(category, {})[name] = stat_of(own)
    return found
