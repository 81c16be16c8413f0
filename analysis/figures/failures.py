"""Crops of what a run does wrong: missed objects, false detections, and duplicates."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from analysis.figures.pictures import ImageReader, draw_picture, frame, legend_entries
from analysis.figures.predictions import SHOWN_SCORE, Predictions, Shape, find_failures, shapes_on
from analysis.figures.style import WIDTHS, add_legend, panels, paper_style, wrap
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {1: 4, 2: 8}
"""Crops in a row, by width."""
MARGIN = 0.6
"""Room around a shape, as a share of its longer side."""
SMALLEST = 24
"""Shortest side of a crop in pixels."""


def failures_figure(predictions: Predictions, width: int = 2, rows: int = 1, score: float = SHOWN_SCORE) -> Figure:
    """Return crops of the failures of a run at IoU 0.5: missed objects, false detections, and duplicates.

    Those that stand out come first, one per image: large objects, and detections with a high score. A duplicate is a
    detection of an object that another detection has found. The crop of a failure shows what else is drawn there, too.

    Args:
        predictions: detections of one run, as `read_predictions` returns them.
        width: 1 for one column of a two-column paper, 2 for both.
        rows: rows of crops for each kind.
        score: detections below this score are not shown and do not count.

    Raises:
        UserError: where images are missing, or there are no failures.
    """
    failures = {kind: found for kind, found in find_failures(predictions, score).items() if found}
    if not failures:
        raise UserError(f"'{predictions.variant.label}' has no failures at IoU 0.5 with scores of {score} and more.")
    reader = ImageReader(predictions)
    read = lru_cache(maxsize=64)(reader.read)
    columns = COLUMNS.get(width, COLUMNS[2])
    lines = {kind: min(rows, math.ceil(len(found) / columns)) for kind, found in failures.items()}
    side = WIDTHS.get(width, WIDTHS[2]) / columns
    kinds: set[str] = set()
    with paper_style():
        figure, axes = panels(width, sum(lines.values()), columns, side + 0.22)
        start = 0
        for kind, found in failures.items():
            own = axes[start : start + lines[kind] * columns]
            start += len(own)
            for axis in own:
                frame(axis)
            for axis, shape in zip(own, found, strict=False):
                kinds |= _draw_crop(axis, predictions, shape, read(shape.image), score)
                caption = shape.category if shape.score is None else f"{shape.category} {shape.score:.2f}"
                axis.set_xlabel(_short(caption, side - 0.08), labelpad=2)
            own[0].set_title(f"{kind}: {len(found)}", loc="left")
        add_legend(figure, *legend_entries([kind for kind in ("missed", "false", "duplicate", "found") if kind in kinds]))
    return figure


def _draw_crop(axis: Axes, predictions: Predictions, shape: Shape, pixels: object, score: float) -> set[str]:
    """Draw the surroundings of a shape, and return the kinds of what is visible."""
    others = [each for each in shapes_on(predictions, shape.image, score) if each.box != shape.box]
    drawn = [shape, *others]
    draw_picture(axis, pixels, drawn)  # type: ignore[arg-type]
    x0, y0, x1, y1 = shape.box
    half = max(max(x1 - x0, y1 - y0) * (0.5 + MARGIN), SMALLEST / 2)
    x, y = (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5
    # A square, which may reach beyond the image.
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y + half, y - half)
    near = (x - half, y - half, x + half, y + half)
    return {each.kind for each in drawn if _overlap(each.box, near)}


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _short(words: str, inches: float) -> str:
    """Return words in at most two lines."""
    lines = wrap(words, inches).split("\n")
    return "\n".join(lines[:2] if len(lines) < 3 else [lines[0], lines[1][:-1] + "…"])
