"""Tables of the AP by category or by size of the objects as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.part_table import CATEGORIES, Part, PartTable
from analysis.render import MISSING, figure, signed
from analysis.sheet import FORMATS, Sheet, SheetBlock, SheetColumn, write_sheet
from analysis.study_render import BOUNDS, METRIC_WORDS, bounds, csv_text, interval, p_value

WORDS = {"categories": "category", "sizes": "size"}


def write_parts(table: PartTable, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write categories_SWEEP.* or sizes_SWEEP.* below `out`, and return the Markdown.

    Raises UserError where the files cannot be written.
    """
    return write_sheet(parts_sheet(table), csv(table), out, formats)


def parts_sheet(table: PartTable) -> Sheet:
    """Return the table as texts."""
    counted = any(part.objects is not None for part in table.parts)
    compared = any(part.comparison is not None for part in table.parts)
    header = [WORDS[table.by], "row", *(["objects"] if counted else []), "AP", "Δ"]
    header += ["on new images", "trained anew", "p"] if compared else []
    rows = []
    for part in table.parts:
        number = [MISSING if part.objects is None else str(part.objects)] if counted else []
        rows.append([part.name, part.row, *number, figure(part.stat), *_difference(table, part, compared)])
    words = METRIC_WORDS[table.kind].capitalize()
    title = f"{words} AP by {WORDS[table.by]} in the sweep {table.sweep}"
    columns = [SheetColumn(each, "l" if index < 2 else "r") for index, each in enumerate(header)]
    name = f"{table.by}_{table.sweep}"
    return Sheet(name, title, columns, [SheetBlock(rows)], notes(table, compared), remarks=table.remarks)


def _difference(table: PartTable, part: Part, compared: bool) -> list[str]:
    """Return the cells from the difference on."""
    cells = ["base" if part.row == table.base else signed(part.delta) + part.mark]
    if compared:
        found = part.comparison
        cells += [
            MISSING if found is None else interval(found.on_images),
            MISSING if found is None or found.anew is None else interval(found.anew),
            MISSING if part.p_value is None else p_value(part.p_value),
        ]
    return cells


def notes(table: PartTable, compared: bool) -> list[str]:
    """Return the sentences below the table."""
    of = "Categories without objects are left out." if table.by == CATEGORIES else (
        "Objects up to 32 × 32 pixels are small, and those from 96 × 96 pixels on are large."
    )  # fmt: skip
    found = [
        f"AP in percent, mean ± sample standard deviation over seeds. Δ: difference to the row '{table.base}'. {of}"
    ]
    if compared:
        found.append(
            "95 % intervals of Δ: 'on new images' holds for these checkpoints (paired bootstrap over images); 'trained "
            "anew' also for other seeds (variance components, Satterthwaite). p belongs to the latter, adjusted for "
            "all differences of this table (Holm); * marks p < 0.05; ° marks, where the variance between seeds is "
            "unknown, a difference whose interval on new images excludes 0, as some do by chance among many."
        )
    return found


def csv(table: PartTable) -> str:
    """Return one line per category or size and row, with the bounds of the intervals."""
    lines: list[list[object]] = [
        [WORDS[table.by], "row", "kind", "objects", "AP", "AP_std", "n", "delta", *BOUNDS, "p"]
    ]
    for part in table.parts:
        lines.append(
            [
                part.name, part.row, table.kind, "" if part.objects is None else part.objects, part.stat.mean,
                "" if part.stat.std is None else part.stat.std, part.stat.n,
                "" if part.delta is None else part.delta, *bounds(part.comparison),
                "" if part.p_value is None else part.p_value,
            ]
        )  # fmt: skip
    return csv_text(lines)
