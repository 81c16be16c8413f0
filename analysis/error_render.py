"""Tables of errors as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.error_table import AP, Cost, ErrorRow, ErrorTable
from analysis.render import MISSING, figure, signed
from analysis.sheet import FORMATS, Sheet, SheetBlock, SheetColumn, write_sheet
from analysis.statistics.resampled_errors import COSTS
from analysis.study_render import BOUNDS, bounds, csv_text, interval

KINDS = {"segm": "masks", "bbox": "boxes"}
HEADERS = {
    "classification": "class",
    "localization": "location",
    "false positives": "all false",
    "false negatives": "all missed",
}


def write_errors(table: ErrorTable, out: Path, formats: Sequence[str] = FORMATS, by_category: bool = False) -> str:
    """Write errors_SWEEP.* below `out`, and return the Markdown.

    Args:
        table: the errors.
        out: folder of the tables.
        formats: endings of FORMATS.
        by_category: also write errors_by_category_SWEEP.*.

    Raises:
        UserError: where the files cannot be written.
    """
    text = write_sheet(errors_sheet(table), csv(table), out, formats)
    if by_category:
        text += "\n" + write_sheet(categories_sheet(table), categories_csv(table), out, formats)
    return text


def errors_sheet(table: ErrorTable) -> Sheet:
    """Return the table as texts."""
    rows = [
        [KINDS[row.kind], row.label, figure(row.ap), *(cell(row.costs[name]) for name in COSTS)] for row in table.rows
    ]
    return Sheet(
        f"errors_{table.sweep}", f"Errors in the sweep {table.sweep}", _columns("", "row"), [SheetBlock(rows)],
        notes(table), remarks=[*table.remarks, *differences(table)],
    )  # fmt: skip


def _columns(*left: str) -> list[SheetColumn]:
    """Return columns of text, and then those of the numbers."""
    return [
        *(SheetColumn(header, "l") for header in left),
        *(SheetColumn(header) for header in (AP, *(HEADERS.get(name, name) for name in COSTS))),
    ]


def cell(cost: Cost) -> str:
    """Return `6.1 ± 0.2*`."""
    return figure(cost.stat) + cost.mark


def notes(table: ErrorTable) -> list[str]:
    """Return the sentences below the table."""
    compared = any(cost.comparison for row in table.rows for cost in row.costs.values())
    found = [
        "Points of AP50 that are lost to each kind of error: what is gained where all errors of this kind, and no "
        "others, are repaired (TIDE, Bolya et al., ECCV 2020). Every false detection has one kind, so the numbers can "
        "be compared, but they do not sum up to what is lost. 'all false': no false detection comes before a right "
        "one; 'all missed': only objects that are found count. Mean ± sample standard deviation over seeds.",
    ]
    if compared:
        found.append(
            f"* marks a difference to the row '{table.base}' with p < 0.05 for methods trained anew, adjusted for the "
            "number of differences (Holm); ° marks, where the variance between seeds is unknown, a difference whose "
            "95 % interval on new images excludes 0."
        )
    return found


def differences(table: ErrorTable) -> list[str]:
    """Return the marked differences in words."""
    found = []
    for row in table.rows:
        for name in COSTS:
            cost = row.costs[name]
            if cost.mark and cost.comparison is not None:
                shown = cost.comparison.anew if cost.mark == "*" else cost.comparison.on_images
                change = f"{signed(cost.comparison.difference)} to '{table.base}'"
                limits = interval(shown) if shown else MISSING
                found.append(f"'{row.label}', {KINDS[row.kind]}, {name}: {change}, 95 % interval {limits}.")
    return found


def csv(table: ErrorTable) -> str:
    """Return one line per row and kind of error, with the bounds of the intervals."""
    header = ["kind", "row", "n", "AP50", "error", "cost", "cost_std", "number", "delta", *BOUNDS, "p"]
    lines: list[list[object]] = [list(header)]
    for row in table.rows:
        lines += [_line(row, name, row.costs[name]) for name in COSTS]
    return csv_text(lines)


def _line(row: ErrorRow, name: str, cost: Cost) -> list[object]:
    found = cost.comparison
    return [
        row.kind, row.label, cost.stat.n, row.ap.mean, name, cost.stat.mean,
        "" if cost.stat.std is None else cost.stat.std, "" if cost.number is None else cost.number,
        "" if found is None else found.difference, *bounds(found), "" if cost.p_value is None else cost.p_value,
    ]  # fmt: skip


def categories_sheet(table: ErrorTable) -> Sheet:
    """Return the errors by category as texts."""
    rows = [
        [KINDS[row.kind], category, row.label, *(figure(of_category.get(name)) for name in (AP, *COSTS))]
        for row in table.rows
        for category, of_category in row.categories.items()
    ]
    rows.sort(key=lambda row: (row[0] != KINDS["segm"], row[1]))
    return Sheet(
        f"errors_by_category_{table.sweep}", f"Errors by category in the sweep {table.sweep}",
        _columns("", "category", "row"), [SheetBlock(rows)],
        ["Points of AP50 of each category that are lost to each kind of error."],
    )  # fmt: skip


def categories_csv(table: ErrorTable) -> str:
    """Return one line per row, category and kind of error."""
    lines: list[list[object]] = [["kind", "row", "category", "error", "cost", "cost_std", "n"]]
    for row in table.rows:
        for category, of_category in row.categories.items():
            for name, stat in of_category.items():
                spread = "" if stat.std is None else stat.std
                lines.append([row.kind, row.label, category, name, stat.mean, spread, stat.n])
    return csv_text(lines)
