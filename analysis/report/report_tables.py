"""The tables of a report: of the rows, of effects, of the settings in which rows differ, and of the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from analysis.error_render import errors_sheet
from analysis.error_table import ErrorTable
from analysis.factorial import Factorial
from analysis.factorial_render import HEADER as FACTORIAL_HEADER
from analysis.factorial_render import cells as factorial_cells
from analysis.factorial_render import notes as factorial_notes
from analysis.render import MISSING, figure
from analysis.report.contents import Cell, Column, ReportTable, TableRow, Value
from analysis.runs import ALL_METRICS
from analysis.statistics.intervals import is_significant
from analysis.statistics.resampled_errors import COSTS
from analysis.study import Study, StudyRow
from analysis.study_render import COLUMNS, cell, columns, metric_words, notes, remarks
from analysis.systems import is_system
from analysis.table_rows import Stat

MAX_COLUMNS = 8
"""Most rows that are columns in the table of settings; of more, the settings are the columns."""
EXPLANATIONS = {
    "n": "Number of finished runs, which differ in the seed only.",
    "boundary_AP": "Boundary AP (Cheng et al., CVPR 2021) in percent: mean ± sample standard deviation over the runs.",
    "fps": "Images per second of the evaluation, with batch size and device as recorded.",
    "images": "95 % interval of the difference to the base row for these checkpoints on new images: paired bootstrap "
    "over the images.",
    "anew": "95 % interval of the difference to the base row for the methods trained anew, with other seeds, on new "
    "images: variance components with Satterthwaite's degrees of freedom.",
    "p": "p-value of the difference with methods trained anew, adjusted for the number of rows (Holm).",
}
METRIC_EXPLANATION = "COCO's {} in percent: mean ± sample standard deviation over the runs."


def study_table(study: Study, origins: Mapping[int, int]) -> ReportTable:
    """Return the table of the rows.

    Args:
        study: the sweep.
        origins: index in `Report.origins` by the index of the row.
    """
    keys = columns(study)
    rows = []
    for index, row in enumerate(study.rows):
        cells = [
            Cell(cell(study, row, key), study_value(study, row, key), key == "delta" and row.is_significant)
            for key in keys
        ]
        rows.append(TableRow(cells, origins.get(index)))
    explained = [Column(key, COLUMNS[key], key != "label", explanation(study, key)) for key in keys]
    return ReportTable("rows", f"Sweep {study.sweep}", explained, rows, notes(study), remarks(study))


def explanation(study: Study, key: str) -> str:
    """Return what the numbers of a column are."""
    if key == "delta":
        return f"Difference in {metric_words(study.metric)} to the row '{study.base}', in points; * marks p < 0.05."
    if key in ALL_METRICS:
        section, name = ALL_METRICS[key]
        return METRIC_EXPLANATION.format(metric_words(f"{section}.{name}"))
    return EXPLANATIONS.get(key, "")


def study_value(study: Study, row: StudyRow, key: str) -> Value:
    """Return the value that a cell is sorted by."""
    comparison = row.comparison
    if key == "label":
        return row.label
    if key == "n":
        return len(row.runs) or None
    if key == "delta":
        return 0.0 if row.label == study.base else row.delta
    if key == "images":
        return None if comparison is None else comparison.on_images.low
    if key == "anew":
        return None if comparison is None or comparison.anew is None else comparison.anew.low
    if key == "p":
        return row.p_value
    stat = row.stats.get(key)
    return None if stat is None else stat.mean


def factorial_table(factorial: Factorial) -> ReportTable:
    """Return the table of the effects in a factorial."""
    explained = [Column(f"effect-{name}", name, name not in ("kind", "of")) for name in FACTORIAL_HEADER]
    rows = []
    for effect in factorial.effects:
        found = effect.comparison
        values: list[Value] = [
            effect.kind, effect.name, found.difference, found.on_images.low,
            None if found.anew is None else found.anew.low, effect.p_value,
        ]  # fmt: skip
        significant = is_significant(effect.p_value)
        rows.append(
            TableRow(
                [
                    Cell(text, value, significant and column.header == "estimate")
                    for text, value, column in zip(factorial_cells(effect), values, explained, strict=True)
                ]
            )
        )
    return ReportTable("effects", "Effects", explained, rows, factorial_notes(factorial))


def error_table(table: ErrorTable) -> ReportTable:
    """Return what each kind of error costs each row."""
    sheet = errors_sheet(table)
    explained = [
        Column("kind", "", False), Column("label", "row", False), Column("AP50", "AP50"),
        *(Column(f"error-{index}", header) for index, header in enumerate(each.header for each in sheet.columns[3:])),
    ]  # fmt: skip
    rows = []
    for row, texts in zip(table.rows, sheet.blocks[0].rows, strict=True):
        values: list[Value] = [texts[0], row.label, row.ap.mean, *(row.costs[name].stat.mean for name in COSTS)]
        strong = [False] * 3 + [bool(row.costs[name].mark) for name in COSTS]
        rows.append(TableRow([Cell(*each) for each in zip(texts, values, strong, strict=True)]))
    return ReportTable("errors", "Where AP50 is lost", explained, rows, sheet.notes, sheet.remarks)


def category_table(study: Study, values: Mapping[str, Mapping[str, Stat]], kind: str) -> ReportTable:
    """Return AP by category.

    Args:
        study: the sweep.
        values: for each category, the statistics of each row, by label, in percent.
        kind: `box` or `mask`.
    """
    shown = [row for row in study.rows if row.runs]
    explained = [
        Column("category", "category", False),
        *(
            Column(f"row-{index}", row.label, True, f"{kind} AP of '{row.label}' in percent, over the seeds")
            for index, row in enumerate(shown)
        ),
    ]
    rows = []
    for category, of_rows in values.items():
        cells = [Cell(category, category)]
        for row in shown:
            stat = of_rows.get(row.label)
            cells.append(Cell(figure(stat), None if stat is None else stat.mean))
        rows.append(TableRow(cells))
    return ReportTable(f"categories-{kind}", f"{kind.capitalize()} AP by category", explained, rows)


def settings_table(study: Study) -> ReportTable | None:
    """Return the settings in which the rows differ; None for less than two rows with known settings."""
    shown = [row for row in study.rows if row.runs and not is_system(row)]
    settings = [{**row.runs[0].settings, "images evaluated": row.runs[0].images} for row in shown]
    known = sorted({key for each in settings for key in each})
    keys = [key for key in known if len({repr(each.get(key)) for each in settings}) > 1]
    if len(shown) < 2 or not keys:
        return None
    texts = [[setting_text(each, key) for key in keys] for each in settings]
    if len(shown) <= MAX_COLUMNS:
        explained = [
            Column("setting", "setting", False),
            *(Column(f"row-{index}", row.label, False) for index, row in enumerate(shown)),
        ]
        rows = [
            TableRow([Cell(key, key), *(Cell(of_row[index], of_row[index]) for of_row in texts)])
            for index, key in enumerate(keys)
        ]
    else:
        explained = [Column("row", "row", False), *(Column(key, key, False) for key in keys)]
        rows = [
            TableRow([Cell(row.label, row.label), *(Cell(text, text) for text in of_row)])
            for row, of_row in zip(shown, texts, strict=True)
        ]
    note = "Settings that can change a result and differ between rows. Seeds are left out; a row shows its first run."
    return ReportTable("settings", "Settings that differ", explained, rows, [note])


def setting_text(settings: Mapping[str, object], key: str) -> str:
    """Return a setting as the table shows it."""
    if key not in settings:
        return MISSING
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def run_table(study: Study, origins: Mapping[int, int]) -> ReportTable:
    """Return all runs of the rows, with their metrics; as in `study_table`, `origins` are those of the rows."""
    metrics = [key for key in columns(study) if key in ALL_METRICS or key == "fps"]
    explained = [
        Column("run", "run", False), Column("row", "row", False), Column("seed", "seed"),
        *(Column(key, COLUMNS[key], True, explanation(study, key)) for key in metrics), Column("code", "code", False),
    ]  # fmt: skip
    rows = []
    for index, row in enumerate(study.rows):
        for run in row.runs:
            values = {**run.metrics, "fps": run.fps}
            cells = [Cell(run.folder, run.folder), Cell(row.label, row.label), Cell(str(run.seed), run.seed)]
            cells += [metric_cell(values.get(key, math.nan)) for key in metrics]
            cells.append(Cell(run.code or MISSING, run.code or None))
            rows.append(TableRow(cells, origins.get(index)))
    return ReportTable("runs", "Runs", explained, rows)


def metric_cell(value: float) -> Cell:
    """Return a cell with one decimal."""
    return Cell(MISSING) if math.isnan(value) else Cell(f"{value:.1f}", value)


def category_values(rows: Sequence[StudyRow], read: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Stat]]:
    """Return, for each category, the statistics of each row by label.

    Args:
        rows: the rows.
        read: by folder of the run, AP by category in percent.
    """
    names = dict.fromkeys(name for of_run in read.values() for name in of_run)
    found: dict[str, dict[str, Stat]] = {}
    for name in names:
        for row in rows:
            values = [of_run[name] for run in row.runs if name in (of_run := read.get(run.folder, {}))]
            if values:
                spread = stdev(values) if len(values) > 1 else None
                found.setdefault(name, {})[row.label] = Stat(fmean(values), spread, len(values))
    return found
