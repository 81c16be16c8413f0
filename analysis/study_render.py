"""The table of a sweep as text, and its numbers as CSV."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence
from pathlib import Path

from analysis.render import MISSING, figure, signed
from analysis.runs import SIZES
from analysis.sheet import FORMATS, Sheet, SheetBlock, SheetColumn, write_sheet
from analysis.statistics.intervals import Comparison, Interval
from analysis.study import Study, StudyRow

METRIC_WORDS = {"bbox": "box", "segm": "mask", "boundary": "boundary"}
KINDS = ("box", "mask")
COLUMNS = {
    "label": "row", "n": "n", "box_AP": "box AP", "mask_AP": "mask AP",
    **{f"{kind}_{name}": name for kind in KINDS for name in SIZES}, "boundary_AP": "boundary AP",
    "fps": "fps", "delta": "Δ", "images": "on new images", "anew": "trained anew", "p": "p",
}  # fmt: skip
"""Headers of the columns. Of the metrics besides AP, a table shows those of masks or those of boxes."""
OF_COMPARISON = ("images", "anew", "p")
"""Columns that a table without intervals leaves out."""
OPTIONAL = ("fps", "boundary_AP")
"""Columns that a table leaves out where no row has a value."""


def write_study(study: Study, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write study_SWEEP.* below `out`, and return the Markdown. Raises UserError where the files cannot be written."""
    return write_sheet(study_sheet(study), csv(study), out, formats)


def columns(study: Study) -> list[str]:
    """Return the columns that have something to show; AP50 to APl of boxes where the metric is one of boxes."""
    left_out = {f"{kind}_{name}" for kind in KINDS for name in SIZES if kind != kind_of(study.metric)}
    known = {key for row in study.rows for key in row.stats}
    left_out |= {key for key in OPTIONAL if key not in known}
    if not any(row.comparison is not None for row in study.rows):
        left_out.update(OF_COMPARISON)
    return [key for key in COLUMNS if key not in left_out]


def kind_of(metric: str) -> str:
    """Return `mask` for `segm.AP` and `boundary.AP`, and `box` for `bbox.AP`."""
    return "box" if metric.startswith("bbox.") else "mask"


def cell(study: Study, row: StudyRow, key: str) -> str:
    """Return the text of one cell."""
    comparison = row.comparison
    if key == "label":
        return row.label
    if key == "n":
        return str(len(row.runs)) if row.runs else MISSING
    if key == "delta":
        mark = "*" if row.is_significant else ""
        return "base" if study.is_base(row) else signed(row.delta) + mark
    if key == "images":
        return MISSING if comparison is None else interval(comparison.on_images)
    if key == "anew":
        return MISSING if comparison is None or comparison.anew is None else interval(comparison.anew)
    if key == "p":
        return MISSING if row.p_value is None else p_value(row.p_value)
    return figure(row.stats.get(key))


def interval(found: Interval) -> str:
    """Return `[+0.2, +1.1]`."""
    return f"[{signed(found.low)}, {signed(found.high)}]"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def metric_words(metric: str) -> str:
    """Return `mask AP` for `segm.AP`."""
    section, name = metric.split(".")
    return f"{METRIC_WORDS[section]} {name}"


def notes(study: Study) -> list[str]:
    """Return the sentences below the table."""
    found = [
        f"Mean ± sample standard deviation over n seeds, in percent; AP50 to APl are {kind_of(study.metric)} APs. Δ: "
        f"difference in {metric_words(study.metric)} to the row '{study.base}'."
    ]
    if any(row.comparison is not None for row in study.rows):
        found.append(
            "95 % intervals of Δ: 'on new images' holds for these checkpoints (paired bootstrap over images); "
            "'trained anew' also for other seeds (variance components, Satterthwaite). p belongs to the latter, "
            "adjusted for the number of rows (Holm); * marks p < 0.05."
        )
    return [*found, *([study.power] if study.power else [])]


def remarks(study: Study) -> list[str]:
    """Return the sentences for the author: rows that are not complete, and what is not averaged or compared."""
    unfinished = [f"'{row.label}': {each}." for row in study.rows for each in row.unfinished]
    # Two rows may be one run.
    return list(dict.fromkeys([*study.remarks, *unfinished]))


def study_sheet(study: Study) -> Sheet:
    """Return the table as text."""
    keys = columns(study)
    rows = [[cell(study, row, key) for key in keys] for row in study.rows]
    shown = [SheetColumn(COLUMNS[key], "l" if key == "label" else "r") for key in keys]
    block = SheetBlock(rows, comments=[comment(row) for row in study.rows])
    return Sheet(f"study_{study.sweep}", f"Sweep {study.sweep}", shown, [block], notes(study), remarks=remarks(study))


def comment(row: StudyRow) -> str:
    """Return the runs of a row, for the source text of a table."""
    return f"runs: {', '.join(run.folder for run in row.runs)}" if row.runs else ""


def csv(study: Study) -> str:
    """Return the numbers: mean, deviation and n of each metric, and the bounds of the intervals."""
    keys = [key for key in columns(study) if key not in ("label", "n", "delta", *OF_COMPARISON)]
    lines: list[list[object]] = [["row", "n", *numbers_header(keys), "runs"]]
    for row in study.rows:
        lines.append([row.label, len(row.runs), *numbers(row, keys), " ".join(run.folder for run in row.runs)])
    return csv_text(lines)


def numbers_header(keys: Sequence[str]) -> list[str]:
    """Return the names of what `numbers` returns."""
    of_metrics = [f"{key}{end}" for key in keys for end in ("", "_std", "_n")]
    return [*of_metrics, "delta", *BOUNDS, "p"]


def numbers(row: StudyRow, keys: Sequence[str]) -> list[object]:
    """Return the numbers of a row: of the metrics `keys`, of the difference, and of its intervals."""
    values: list[object] = []
    for key in keys:
        stat = row.stats.get(key)
        values += ["", "", ""] if stat is None else [stat.mean, "" if stat.std is None else stat.std, stat.n or ""]
    delta = "" if row.delta is None else row.delta
    return [*values, delta, *bounds(row.comparison), "" if row.p_value is None else row.p_value]


def csv_text(lines: Sequence[Sequence[object]]) -> str:
    """Return lines of values as CSV."""
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


BOUNDS = ("images_low", "images_high", "anew_low", "anew_high")
"""Names of what `bounds` returns."""


def bounds(found: Comparison | None) -> list[object]:
    """Return the bounds of the intervals of a difference, empty where there are none."""
    values: list[object] = []
    for each in (found.on_images, found.anew) if found else (None, None):
        values += ["", ""] if each is None else [each.low, each.high]
    return values
