"""The table of a study in the paper's form as text, and its numbers as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.paper.build import FormBlock, FormTable
from analysis.render import MISSING, Footnotes
from analysis.runs import ALL_METRICS
from analysis.sheet import FORMATS, Sheet, SheetBlock, SheetColumn, write_sheet
from analysis.study_render import (
    COLUMNS,
    OF_COMPARISON,
    cell,
    columns,
    comment,
    csv_text,
    kind_of,
    notes,
    numbers,
    numbers_header,
    remarks,
)


def write_form(table: FormTable, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write NAME.* below `out`, and return the Markdown. Raises UserError where the files cannot be written."""
    return write_sheet(form_sheet(table), csv(table), out, formats)


def form_sheet(table: FormTable) -> Sheet:
    """Return the table as text."""
    form, keys = table.form, study_columns(table)
    labels = needs_labels(table)
    shown = [SheetColumn(form.labels or "row", "l")] if labels else []
    shown += [SheetColumn(setting.header, setting.align) for setting in form.columns.values()]
    shown += [SheetColumn(COLUMNS[key]) for key in keys]
    origins = Footnotes(letters=False)
    blocks = []
    for block in table.blocks:
        rows = []
        for index, row in enumerate(block.study.rows):
            texts = [row.label] if labels else []
            texts += [block.settings[index][key] or MISSING for key in form.columns]
            texts += [cell(block.study, row, key) for key in keys]
            rows.append([*texts, origin_of(block, index, origins)])
        comments = [comment(row) for row in block.study.rows]
        blocks.append(SheetBlock(rows, block.title, comments, list(dict.fromkeys(block.sources))))
    shown.append(SheetColumn("from", "l", in_latex=False))
    found = table.remarks + (remarks(table.own) if table.own is not None else [])
    return Sheet(form.name, form.caption, shown, blocks, form_notes(table), origins.marked_texts(), found)


def study_columns(table: FormTable) -> list[str]:
    """Return the keys of the columns after the settings: metrics, difference and n, and intervals where there are."""
    keys = columns(table.own or table.blocks[0].study)
    metrics = [key for key in keys if key in ALL_METRICS]
    return [*metrics, "delta", "n", *(key for key in keys if key in OF_COMPARISON)]


def needs_labels(table: FormTable) -> bool:
    """Return whether the rows need their labels: the form has them, or own rows look alike or unknown without."""
    own = [tuple(each.values()) for block in table.blocks if block.study is table.own for each in block.settings]
    return bool(table.form.labels) or any("" in each for each in own) or max(Counter(own).values(), default=0) > 1


def origin_of(block: FormBlock, index: int, origins: Footnotes) -> str:
    """Return the mark of a row's source or runs."""
    if block.sources:
        return f"published [{origins.add(f'{block.sources[index]}.')}]"
    runs = ", ".join(f"`{run.folder}`" for run in block.study.rows[index].runs)
    return f"[{origins.add(runs)}]" if runs else MISSING


def form_notes(table: FormTable) -> list[str]:
    """Return the sentences below the table."""
    own = notes(table.own) if table.own is not None else [
        f"AP in percent; AP50 to APl are {kind_of(table.metric)} APs. Δ: difference to the row marked 'base'."
    ]  # fmt: skip
    return [*own, "Blocks differ in data, split or settings: compare only rows of the same block.", *table.notes]


def csv(table: FormTable) -> str:
    """Return the numbers: mean, deviation and n of each metric, and the bounds of the intervals."""
    metrics = [key for key in study_columns(table) if key in ALL_METRICS]
    lines: list[list[object]] = [
        ["origin", "block", "row", *table.form.columns, "n", *numbers_header(metrics), "is_base", "source"]
    ]
    for block in table.blocks:
        for index, row in enumerate(block.study.rows):
            lines.append(
                [
                    "published" if block.sources else "own",
                    block.title,
                    row.label,
                    *block.settings[index].values(),
                    "" if block.sources else len(row.runs),
                    *numbers(row, metrics),
                    int(block.study.is_base(row)),
                    block.sources[index] if block.sources else " ".join(run.folder for run in row.runs),
                ]
            )
    return csv_text(lines)
