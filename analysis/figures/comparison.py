"""Predictions of two variants side by side, on the images on which they differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.pictures import ImageReader, draw_picture, legend_entries, write_words
from analysis.figures.predictions import (
    SHOWN_SCORE,
    ImageScores,
    Predictions,
    Shape,
    image_scores,
    objects_on,
    shapes_on,
)
from analysis.figures.style import WIDTHS, add_legend, panels, paper_style, wrap
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = 4


def predictions_figure(
    first: Predictions, second: Predictions, width: int = 2, images: int = IMAGES, score: float = SHOWN_SCORE
) -> Figure:
    """Return the objects and the predictions of two runs on the images on which these differ most.

    Images are chosen by the difference in F1, the harmonic mean of precision and recall of the detections on the image,
    over all categories and IoU thresholds. Images that are chosen for their difference illustrate, and prove nothing.
    Categories and scores are written at two columns only.

    Args:
        first: one run, as `read_predictions` returns it.
        second: a run of another variant, evaluated on the same images.
        width: 1 for one column of a two-column paper, 2 for both.
        images: number of images.
        score: detections below this score are not shown and do not count.

    Raises:
        UserError: where images are missing, or the runs were evaluated on different ones.
    """
    if first.truth.image_ids != second.truth.image_ids or first.truth.source != second.truth.source:
        raise UserError(
            f"'{first.variant.label}' and '{second.variant.label}' were evaluated on different images: nothing is "
            "compared."
        )
    scores = image_scores(first.matches, score), image_scores(second.matches, score)
    chosen = most_different(*scores, images)
    if not chosen:
        raise UserError(
            f"'{first.variant.label}' and '{second.variant.label}' have the same predictions on all images."
        )
    reader = ImageReader(first)
    pixels = [reader.read(image) for image in chosen]
    shapes: dict[Axes, list[Shape]] = {}
    shape = np.mean([each.shape[0] / each.shape[1] for each in pixels])
    with paper_style():
        figure, axes = panels(
            width, len(chosen), 3, float(min(shape, 1.5)) * WIDTHS[width] / 3 + 0.2, layout="compressed"
        )
        for row, (image, own) in enumerate(zip(chosen, pixels, strict=True)):
            objects = objects_on(first, image)
            row_axes = axes[3 * row : 3 * row + 3]
            draw_picture(row_axes[0], own, objects)
            for axis, predictions, of_run in zip(row_axes[1:], (first, second), scores, strict=True):
                shapes[axis] = shapes_on(predictions, image, score)
                draw_picture(axis, own, shapes[axis])
                axis.set_xlabel(f"F1 {of_run.f1[image]:.2f}", labelpad=2)
            row_axes[0].set_xlabel(f"{len(objects)} object{'s' * (len(objects) != 1)}", labelpad=2)
        inches = WIDTHS[width] / 3 - 0.15
        for axis, title in zip(axes, ["objects", first.variant.label, second.variant.label], strict=False):
            axis.set_title(wrap(title, inches))
        add_legend(figure, *legend_entries(["object", "found", "false", "missed"]))
        if width == 2:
            figure.draw_without_rendering()
            for axis, drawn in shapes.items():
                write_words(axis, drawn)
    return figure


def most_different(first: ImageScores, second: ImageScores, images: int) -> list[int]:
    """Return the indices of the images on which the F1 of two runs differs most; none on which it is equal."""
    difference = np.abs(second.f1 - first.f1)
    order = np.argsort(-difference, kind="stable")[:images]
    return [int(index) for index in order if difference[index] > 0]
