"""The table of the effects in a sweep as text, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.factorial import Effect, Factorial, gain
from analysis.render import MISSING, signed
from analysis.sheet import FORMATS, Sheet, SheetBlock, SheetColumn, write_sheet
from analysis.statistics.intervals import is_significant
from analysis.study_render import BOUNDS, bounds, csv_text, interval, metric_words, p_value

HEADER = ["kind", "of", "estimate", "on new images", "trained anew", "p"]
TEXT_COLUMNS = 2
"""Columns of words, before those of numbers."""


def write_factorial(factorial: Factorial, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write factorial_SWEEP.* below `out`, and return the Markdown.

    Raises UserError where the files cannot be written.
    """
    return write_sheet(factorial_sheet(factorial), csv(factorial), out, formats)


def factorial_sheet(factorial: Factorial) -> Sheet:
    """Return the table as text."""
    shown = [SheetColumn(text, "l" if index < TEXT_COLUMNS else "r") for index, text in enumerate(HEADER)]
    sweep = factorial.study.sweep
    block = SheetBlock([cells(effect) for effect in factorial.effects])
    return Sheet(f"factorial_{sweep}", f"Effects in the sweep {sweep}", shown, [block], notes(factorial), wide=False)


def cells(effect: Effect) -> list[str]:
    """Return the cells of one effect."""
    found = effect.comparison
    mark = "*" if is_significant(effect.p_value) else ""
    return [
        effect.kind,
        effect.name,
        f"{found.difference:+.2f}".replace("-", "−") + mark,
        interval(found.on_images),
        MISSING if found.anew is None else interval(found.anew),
        MISSING if effect.p_value is None else p_value(effect.p_value),
    ]


def notes(factorial: Factorial) -> list[str]:
    """Return the sentences below the table."""
    rows = len([row for row in factorial.study.rows if row.resampled])
    found = [
        f"Effects on {metric_words(factorial.study.metric)} in percent, from {factorial.runs} runs of {rows} rows. A "
        "main effect is the mean difference over all combinations of the others; an interaction is half of the "
        "difference that another makes to it; the shares (Shapley values) do not depend on an order and sum up to the "
        f"difference between all and none, {signed(gain(factorial))}.",
        "95 % intervals: 'on new images' for these checkpoints; 'trained anew' also for other seeds, with one variance "
        "between seeds for all rows. p is adjusted for the number of effects of its kind (Holm); * marks p < 0.05.",
    ]
    if factorial.runs == rows:
        found.append("With one seed per row, the variance between seeds is unknown: add seeds, as in seed=0,1.")
    return found


def csv(factorial: Factorial) -> str:
    """Return the estimates and the bounds of their intervals."""
    lines: list[list[object]] = [["kind", "of", "estimate", *BOUNDS, "p"]]
    for each in factorial.effects:
        p = "" if each.p_value is None else each.p_value
        lines.append([each.kind, each.name, each.comparison.difference, *bounds(each.comparison), p])
    return csv_text(lines)
