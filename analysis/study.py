"""The table of a sweep: its rows in their order, over seeds, with the difference to the base row and its intervals."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.runs import ALL_METRICS, Run
from analysis.statistics.intervals import (
    Comparison,
    adjusted,
    compare,
    is_significant,
    pooled_variance,
    seeds_to_see,
    smallest_visible,
)
from analysis.statistics.resampled import BOUNDARY_KEYS, KEYS, ResampledRun, Resampler
from analysis.statistics.truth import BOUNDARY, KINDS
from analysis.table_rows import Stat, code_remarks
from htc.errors import UserError, nearest
from htc.runs.evaluations import evaluation_at
from htc.runs.files import read_object
from htc.runs.pool import SelectedRun, read_rows
from htc.runs.record import RunRecord

CHOICES = [*KEYS, *BOUNDARY_KEYS]
"""Metrics by which rows can be compared."""
BOUNDARY_AP = f"{BOUNDARY}_AP"
"""Key of boundary AP among the statistics of a row, where rows are compared by a metric of boundaries."""
ONE_AP = 0.5
"""Difference in AP for which the line of power names the number of seeds."""


@dataclass
class StudyRow:
    """One row: the runs of one label that differ in the seed only."""

    label: str
    runs: list[Run] = field(default_factory=list)
    """Finished runs, by seed."""
    unfinished: list[str] = field(default_factory=list)
    """For each other run of the label, its state and the command that makes it."""
    stats: dict[str, Stat] = field(default_factory=dict)
    """By the keys of ALL_METRICS, in percent, `fps`, and BOUNDARY_AP."""
    resampled: list[ResampledRun] = field(default_factory=list)
    """The runs on resamples of the images; empty without intervals."""
    comparison: Comparison | None = None
    """Difference to the base row in percent; None for the base row and without intervals."""
    delta: float | None = None
    """Difference to the base row in percent; None for the base row."""
    p_value: float | None = None
    """Of the difference, methods trained anew, adjusted for the number of rows by Holm's method."""

    @property
    def is_significant(self) -> bool:
        """Whether the interval of the methods trained anew excludes 0, after the adjustment."""
        return is_significant(self.p_value)


@dataclass
class Study:
    """The table of a sweep."""

    sweep: str
    metric: str
    """Metric of the differences, such as `segm.AP`."""
    rows: list[StudyRow]
    base: str
    """Label of the base row."""
    images: int | None
    power: str = ""
    """What differences this experiment can see."""
    remarks: list[str] = field(default_factory=list)

    def is_base(self, row: StudyRow) -> bool:
        """Return whether others are compared with a row."""
        return row.label == self.base and row.delta is None


def build_study(
    runs: Sequence[Run],
    pool: Path,
    sweep: str,
    *,
    base: str = "",
    metric: str = "segm.AP",
    evaluation: str = "default",
    resampler: Resampler | None = None,
    systems: Sequence[StudyRow] = (),
) -> Study:
    """Return the table of a sweep.

    Args:
        runs: all runs below the pool.
        pool: folder of runs.
        sweep: name of the sweep.
        base: label of the row that others are compared with; empty for the first one that has runs.
        metric: metric of the differences, one of CHOICES.
        evaluation: name of the evaluation.
        resampler: makes the intervals; None for a table without intervals.
        systems: rows of other systems, which are last; see `analysis.systems`.

    Raises:
        UserError: for an unknown base row or metric.
    """
    if metric not in CHOICES:
        raise UserError(f"metric={metric} is not one of {', '.join(CHOICES)}{nearest(metric, CHOICES)}.")
    selected = read_rows(pool, sweep)
    rows, remarks = rows_of(runs, selected, pool)
    for system in systems:
        if any(row.runs and images_of(row) == images_of(system) for row in rows):
            rows.append(replace(system))
        else:
            remarks.append(f"'{system.label}' is not shown: it was evaluated on other images than the rows.")
    labels = [row.label for row in rows]
    if base and base not in labels:
        raise UserError(f"base={base} is not a row of the sweep {sweep}{nearest(base, labels)}: {', '.join(labels)}.")
    with_runs = [row for row in rows if row.runs]
    chosen = next((row for row in rows if row.label == base), None) or (with_runs[0] if with_runs else None)
    study = Study(sweep, metric, rows, chosen.label if chosen else "", None, remarks=remarks)
    for row in with_runs:
        row.stats = statistics(row.runs)
        remarks += code_remarks(row.runs)
        remarks += [f"`{run.folder}` continues {run.continues}." for run in row.runs if run.continues]
    if chosen is None or not chosen.runs:
        return study
    if resampler is not None or metric in BOUNDARY_KEYS:
        add_resampled(study, pool, evaluation, resampler or Resampler(0))
    key = table_key(metric)
    for row in with_runs:
        if row is not chosen and key in row.stats and key in chosen.stats:
            row.delta = row.stats[key].mean - chosen.stats[key].mean
    study.images = chosen.runs[0].images
    if resampler is not None:
        add_intervals(study, chosen)
    return study


def rows_of(runs: Sequence[Run], selected: Sequence[SelectedRun], pool: Path) -> tuple[list[StudyRow], list[str]]:
    """Return the rows of a sweep in their order, and remarks on runs of one label that must not be averaged."""
    by_folder = {run.folder: run for run in runs}
    labels = list(dict.fromkeys(row.label or name_of(row) for row in selected))
    rows: list[StudyRow] = []
    remarks: list[str] = []
    for label in labels:
        of_label = {row.run: row for row in selected if (row.label or name_of(row)) == label}
        groups: dict[str, StudyRow] = {}
        unfinished = []
        for name, row in of_label.items():
            run = by_folder.get(name)
            if run is not None and run.status == "done" and run.settings:
                groups.setdefault(run.group, StudyRow(label)).runs.append(run)
            else:
                unfinished.append(describe_unfinished(name, row, pool))
        of_groups = list(groups.values()) or [StudyRow(label)]
        for group in of_groups:
            group.runs = newest_of_each_seed(group.runs)
        if len(of_groups) > 1:
            name_differences(of_groups)
            remarks.append(f"Not averaged: the runs of '{label}' have different settings, data or evaluations.")
        of_groups[0].unfinished = unfinished
        rows += of_groups
    return rows, remarks


def name_of(row: SelectedRun) -> str:
    """Return a name for a run without a label: that of its folder, without seed and signature."""
    parts = row.run.rsplit("-", 1)[0].split("-")
    return "-".join(part for part in parts if not part.startswith("seed"))


def newest_of_each_seed(runs: Sequence[Run]) -> list[Run]:
    """Return one run per seed, the newest, by seed."""
    newest: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.ended, run.folder)):
        newest[run.seed] = run
    return [newest[seed] for seed in sorted(newest)]


def name_differences(rows: Sequence[StudyRow]) -> None:
    """Add to the labels of rows the settings in which they differ."""
    settings = [{**row.runs[0].settings, "images": row.runs[0].images} for row in rows]
    known = dict.fromkeys(key for each in settings for key in each)
    keys = [key for key in known if len({repr(each.get(key)) for each in settings}) > 1]
    for row, of_row in zip(rows, settings, strict=True):
        shown = ", ".join(f"{key}={json.dumps(of_row.get(key), default=str)}" for key in keys[:3])
        row.label = f"{row.label} ({shown})"


def describe_unfinished(name: str, row: SelectedRun, pool: Path) -> str:
    """Return the state of a run that is not done, and the command that makes it."""
    record = pool / name / "run.json"
    status = "missing"
    if record.is_file():
        status = RunRecord.from_json(read_object(record)).status or "not started"
    command = shlex.join(["python", "-m", "htc.run", *row.overrides]) if row.overrides else ""
    return f"`{name}` is {status}" + (f": `{command}`" if command and status not in ("running", "queued") else "")


def statistics(runs: Sequence[Run]) -> dict[str, Stat]:
    """Return mean, deviation and number of the metrics of some runs, and fps where all have the same conditions."""
    found = {}
    for key in ALL_METRICS:
        values = np.array([run.metrics.get(key, np.nan) for run in runs])
        values = values[~np.isnan(values)]
        if len(values):
            found[key] = stat_of(values)
    speeds = np.array([run.fps for run in runs])
    if not np.isnan(speeds).any() and len({run.conditions for run in runs}) == 1:
        found["fps"] = stat_of(speeds)
    return found


def stat_of(values: np.ndarray[Any, Any]) -> Stat:
    """Return mean and sample standard deviation of some numbers, one per run."""
    return Stat(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def table_key(metric: str) -> str:
    """Return the key of ALL_METRICS of a metric, such as `mask_AP` of `segm.AP`; empty where no table has it."""
    section, name = metric.split(".")
    if metric == f"{BOUNDARY}.AP":
        return BOUNDARY_AP
    return next((key for key, place in ALL_METRICS.items() if place == (section, name)), "")


def add_resampled(study: Study, pool: Path, evaluation: str, resampler: Resampler) -> None:
    """Add the runs on resamples of the images, and boundary AP where rows are compared by a metric of boundaries."""
    of_boundaries = study.metric in BOUNDARY_KEYS
    lacks = "intervals" if resampler.resamples else "boundary AP"
    for row in study.rows:
        # Another system may have boxes only.
        kinds = (*KINDS, BOUNDARY) if of_boundaries and "mask_AP" in row.stats else KINDS
        try:
            found = [resampled_run(run, pool, evaluation, resampler, kinds) for run in row.runs]
        except UserError as error:
            study.remarks.append(f"'{row.label}' has no {lacks}: {error.sentence}")
            continue
        row.resampled = found if resampler.resamples else []
        if found and BOUNDARY in kinds:
            row.stats[BOUNDARY_AP] = stat_of(np.array([100 * run.values[f"{BOUNDARY}.AP"] for run in found]))


def add_intervals(study: Study, base: StudyRow) -> None:
    """Add the intervals of the differences to the base row, and what the experiment can see."""
    rows = comparable_rows(study)
    if base not in rows:
        return
    values = {row.label: values_of(row, study.metric) for row in rows}
    pooled = pooled_variance([values[row.label][0] for row in rows])
    compared = []
    for row in rows:
        if row is base:
            continue
        if images_of(row) != images_of(base):
            study.remarks.append(
                f"'{row.label}' is not compared: it was evaluated on other images than '{base.label}'."
            )
            continue
        of_row, of_base = values[row.label], values[base.label]
        row.comparison = compare(of_row[0], of_base[0], of_row[1], of_base[1], base.resampled[0].images, pooled)
        row.delta = row.comparison.difference
        compared.append(row)
    for row, p_value in zip(compared, adjusted([row.comparison for row in compared]), strict=True):
        row.p_value = p_value
    study.power = power_line(study, compared)


def comparable_rows(study: Study) -> list[StudyRow]:
    """Return the rows on resamples that have what the metric needs: another system may have boxes alone, or masks."""
    key = table_key(f"{study.metric.split('.')[0]}.AP")
    return [row for row in study.rows if row.resampled and key in row.stats]


def resampled_run(
    run: Run, pool: Path, evaluation: str, resampler: Resampler, kinds: Sequence[str] = KINDS
) -> ResampledRun:
    folder = pool / run.folder
    results = evaluation_at(folder, evaluation).read()
    if sys.stderr.isatty():
        print(f"resampling {run.folder}", file=sys.stderr, flush=True)
    return resampler.run(folder, evaluation, results, kinds)


def images_of(row: StudyRow) -> tuple[Any, ...]:
    """Return what identifies the images that a row was evaluated on."""
    run = row.runs[0]
    if run.annotations:
        return (run.images, run.annotations)
    keys = ("data.name", "data.val.content", "data.shapes.image_size", "data.shapes.seed", "data.shapes.val_images")
    return (run.images, *(run.settings.get(key) for key in keys))


def values_of(row: StudyRow, metric: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a metric of the runs of a row in percent: [n], and [n, R] on resamples."""
    return (
        100 * np.array([run.values[metric] for run in row.resampled]),
        100 * np.stack([run.resampled[metric] for run in row.resampled]),
    )


def power_line(study: Study, compared: Sequence[StudyRow]) -> str:
    """Return in words which differences the experiment can see, and how many seeds would show half a point."""
    rows = comparable_rows(study)
    pooled = pooled_variance([values_of(row, study.metric)[0] for row in rows])
    comparisons = [row.comparison for row in compared if row.comparison is not None]
    if not comparisons:
        return ""
    numbers = sorted({len(row.runs) for row in rows})
    seeds = f"{numbers[0]} to {numbers[-1]} seeds" if len(numbers) > 1 else f"{numbers[0]} seed{'s' * (numbers[0] > 1)}"
    if pooled is None:
        return (
            f"With {seeds} per row, nothing can be said about the methods trained anew: the variance between seeds is "
            "unknown. Add seeds, as in seed=0,1,2."
        )
    errors = [
        smallest_visible(each.standard_error, each.anew.degrees or np.inf)
        for each in comparisons
        if each.standard_error is not None and each.anew is not None
    ]
    half_width = [(each.on_images.high - each.on_images.low) / 2 / 1.96 for each in comparisons]
    needed = seeds_to_see(ONE_AP, pooled, float(np.median(half_width)) ** 2)
    more = (
        f"{needed} seeds per row would show {ONE_AP} AP"
        if needed is not None
        else f"no number of seeds shows {ONE_AP} AP on these images: more images would"
    )
    return (
        f"With {seeds} and {study.images} images, a true difference below about {np.median(errors):.1f} AP is found in "
        f"fewer than 4 of 5 such experiments; {more}."
    )
