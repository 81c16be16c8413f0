"""Crops of what a run does wrong: missed objects, false detections, and duplicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from analysis.figures.pictures import LOOKS, ImageReader, Window, draw_picture, frame, legend_entries
from analysis.figures.predictions import SHOWN_SCORE, Predictions, Shape, find_failures, objects_on, shapes_on
from analysis.figures.style import WIDTHS, add_legend, panels, paper_style, wrap
from analysis.statistics.truth import Array
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
    detection of an object that another detection has found. The crop of a false detection shows the
    objects at its place, and that of a missed object the false detections.

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
        figure, axes = panels(width, sum(lines.values()), columns, side + 0.3, layout="compressed")
        start = 0
        for kind, found in failures.items():
            own = axes[start : start + lines[kind] * columns]
            start += len(own)
            for axis in own:
                frame(axis)
                axis.set_aspect("equal")
            for axis, shape in zip(own, found, strict=False):
                kinds |= _draw_crop(axis, predictions, shape, read(shape.image), score)
                caption = shape.category if shape.score is None else f"{shape.category} {shape.score:.2f}"
                axis.set_xlabel(_short(caption, side - 0.08), labelpad=2)
            own[0].set_title(f"{kind}: {len(found)}", loc="left")
        add_legend(figure, *legend_entries([kind for kind in LOOKS if kind in kinds]))
    return figure


def _draw_crop(axis: Axes, predictions: Predictions, shape: Shape, pixels: Array, score: float) -> set[str]:
    """Draw the surroundings of a shape, and return the kinds of what is drawn."""
    drawn = [shape, *_context(predictions, shape, score)]
    draw_picture(axis, pixels, drawn, crop(shape.box, pixels.shape[1], pixels.shape[0]))
    return {each.kind for each in drawn}


def _context(predictions: Predictions, shape: Shape, score: float) -> list[Shape]:
    """Return what explains a failure.

    For a missed object, these are the detections at its place; for a false detection, the objects there; and for a
    duplicate, the detection that has found the object.
    """
    if shape.kind == "false":
        return [each for each in objects_on(predictions, shape.image) if box_iou(each.box, shape.box) > 0.1]
    near = [each for each in shapes_on(predictions, shape.image, score) if box_iou(each.box, shape.box) > 0.3]
    if shape.kind == "missed":
        return [each for each in near if each.kind == "false"]
    return [each for each in near if each.kind == "found" and each.category == shape.category]


def crop(box: Sequence[float], width: int, height: int) -> Window:
    """Return left, top, right and bottom of the surroundings of a box, within the image.

    Args:
        box: xyxy in pixels.
        width: width of the image in pixels.
        height: height of the image in pixels.
    """
    x0, y0, x1, y1 = box
    side = math.ceil(max(max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN), SMALLEST))
    # A square, unless the image is too small for it.
    w, h = min(side, width), min(side, height)
    left = min(max(round((x0 + x1 - w) / 2), 0), width - w)
    top = min(max(round((y0 + y1 - h) / 2), 0), height - h)
    return left, top, left + w, top + h


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two boxes, xyxy."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def _short(words: str, inches: float) -> str:
    """Return words in at most two lines."""
    lines = wrap(words, inches).split("\n")
    return "\n".join(lines[:2] if len(lines) < 3 else [lines[0], lines[1][:-1] + "…"])
