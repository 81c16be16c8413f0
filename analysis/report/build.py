"""The contents of the report of a sweep, gathered from run folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import htc
from analysis.error_table import build_errors
from analysis.factorial import build_factorial
from analysis.report.contents import Report
from analysis.report.drawings import add_drawings
from analysis.report.origins import origin_of
from analysis.report.report_tables import (
    category_table,
    category_values,
    error_table,
    factorial_table,
    run_table,
    settings_table,
    study_table,
)
from analysis.runs import Run, default_evaluation, read_runs, run_folders
from analysis.statistics.resampled import Resampler
from analysis.study import Study, StudyRow, build_study
from analysis.study_render import metric_words
from analysis.systems import read_systems
from htc.errors import UserError, nearest
from htc.runs.evaluations import evaluation_at
from htc.runs.json_values import mapping, number
from htc.runs.pool import UNNAMED, sweep_names

KINDS = {"bbox": "box", "segm": "mask"}


def build_report(
    pool: Path,
    sweep: str = "",
    *,
    base: str = "",
    metric: str = "segm.AP",
    evaluation: str = "",
    resamples: int = 1000,
    pictures: int = 8,
    systems: Sequence[Path] = (),
) -> Report:
    """Gather the report of a sweep.

    Args:
        pool: folder of runs.
        sweep: name of the sweep; empty for the only one.
        base: label of the row that others are compared with; empty for the first one that has runs.
        metric: metric of the differences, such as `segm.AP`.
        evaluation: name of the evaluation; empty for `default`, or the only one that there is.
        resamples: resamples of the images for the intervals; 0 for no intervals.
        pictures: number of images with predictions.
        systems: folders of other systems' results, which are rows as well.

    Raises:
        UserError: for a missing folder, an unknown sweep, row, metric or evaluation, and a sweep without finished runs.
    """
    runs, complaints = read_runs(pool, evaluation)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sweep = sweep or only_sweep(pool)
    if sweep not in sweep_names(pool):
        raise UserError(f"sweep={sweep} is no sweep of {pool}{nearest(sweep, sweep_names(pool))}.")
    name = evaluation or default_evaluation(run_folders(pool, []))
    resampler = Resampler(resamples) if resamples else None
    study = build_study(
        runs, pool, sweep, base=base, metric=metric, evaluation=name, resampler=resampler,
        systems=read_systems(systems),
    )  # fmt: skip
    if not any(row.runs for row in study.rows):
        raise UserError(
            f"sweep={sweep}: none of its runs is done, so there is nothing to report; see python -m htc.status {sweep} "
            f"runs={pool}."
        )
    report = gather(study, pool, name, complaints)
    if resampler is not None and (errors := build_errors(study, pool, name, resampler)).rows:
        report.tables.insert(-1, error_table(errors))
    add_drawings(report, study, pool, name, resamples, pictures)
    return report


def gather(study: Study, pool: Path, evaluation: str, complaints: Sequence[str]) -> Report:
    """Return the report of a study.

    Args:
        study: the table of the sweep.
        pool: folder of runs.
        evaluation: name of the evaluation that is shown.
        complaints: sentences about runs that cannot be read.
    """
    report = Report(f"Sweep {study.sweep}")
    origins: dict[int, int] = {}
    for index, row in enumerate(study.rows):
        if row.runs:
            origins[index] = len(report.origins)
            report.origins.append(origin_of(row, pool, evaluation))
    report.summary = summarise(study)
    report.tables.append(study_table(study, origins))
    if (factorial := build_factorial(study)) is not None:
        report.tables.append(factorial_table(factorial))
    recorded = {run.folder: categories_of(run, pool, evaluation) for row in study.rows for run in row.runs}
    for section, words in KINDS.items():
        values = category_values(study.rows, {folder: of_run[section] for folder, of_run in recorded.items()})
        if values:
            report.tables.append(category_table(study, values, words))
    report.tables.append(run_table(study, origins))
    report.settings = settings_table(study)
    report.remarks = [complaint[0].upper() + complaint[1:] for complaint in complaints]
    report.facts = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": f"htc {htc.__version__}",
        "runs": str(pool),
        "evaluation": evaluation,
    }
    return report


def only_sweep(pool: Path) -> str:
    """Return the name of the only sweep. Raises UserError where there are several, or none."""
    names = [name for name in sweep_names(pool) if name != UNNAMED]
    if len(names) != 1:
        listed = f"choose one of {', '.join(names)}" if names else "there is none yet"
        raise UserError(f"sweep has no value, and {pool} has {len(names)} sweeps: {listed}, as in sweep=NAME.")
    return names[0]


def categories_of(run: Run, pool: Path, evaluation: str) -> dict[str, dict[str, float]]:
    """Return AP by section of KINDS and by category in percent, as far as it is recorded, by the names of the data."""
    recorded = mapping(evaluation_at(pool / run.folder, evaluation).read().get("per_category"))
    found: dict[str, dict[str, float]] = {}
    for section in KINDS:
        values = {name: number(value) for name, value in mapping(recorded.get(section)).items()}
        found[section] = {name: 100 * value for name, value in values.items() if value is not None and 0 <= value <= 1}
    return found


def summarise(study: Study) -> list[str]:
    """Return what the table says, in sentences that can be pasted."""
    done = [row for row in study.rows if row.runs]
    runs = sum(len(row.runs) for row in done)
    unfinished = sum(len(row.unfinished) for row in study.rows)
    found = [
        f"{runs} finished runs of {len(done)} rows, evaluated on {study.images} images"
        + (f"; {unfinished} {'run is' if unfinished == 1 else 'runs are'} not done." if unfinished else ".")
    ]
    better, worse = ([row for row in done if row.is_significant and sign * (row.delta or 0) > 0] for sign in (1, -1))
    compared = [row for row in done if row.p_value is not None]
    words = metric_words(study.metric)
    if compared:
        found += [sentence(row, study, words) for row in (*better, *worse)]
        rest = len(compared) - len(better) - len(worse)
        if rest:
            found.append(
                f"{rest} of {len(compared)} differences in {words} to the row '{study.base}' could be chance: their "
                "intervals of the methods trained anew contain 0 after adjustment."
            )
    elif any(row.comparison for row in done):
        found.append(
            "With one seed per row, no difference between methods can be claimed: add seeds, as in seed=0,1,2."
        )
    return found


def sentence(row: StudyRow, study: Study, words: str) -> str:
    """Return the significant difference of a row in words."""
    anew = row.comparison.anew if row.comparison is not None else None
    bounds = f", 95 % interval {anew.low:+.1f} to {anew.high:+.1f}" if anew is not None else ""
    points = abs(row.delta or 0)
    direction = "higher" if (row.delta or 0) > 0 else "lower"
    return f"'{row.label}' has {points:.1f} points {direction} {words} than '{study.base}'{bounds.replace('-', '−')}."
