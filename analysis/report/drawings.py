"""Figures and pictures of a report: what `analysis.figures` draws, as SVG, and the predictions of rows on images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.figures.comparison import most_different
from analysis.figures.drawing import Choices, Drawing
from analysis.figures.output import svg
from analysis.figures.pictures import ImageReader
from analysis.figures.predictions import (
    Predictions,
    Shape,
    image_scores,
    objects_on,
    pair_of_runs,
    read_predictions,
    shapes_on,
)
from analysis.figures.style import paper_style
from analysis.figures.variants import Group, Variant, read_groups
from analysis.report import contents
from analysis.report.contents import Overlay, Picture, Report
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import BOUNDARY, Array
from analysis.study import Study
from htc.errors import UserError

TITLES = {
    "components": "What each component adds", "effects": "Effects of the factorial",
    "training": "Training", "losses": "Losses", "thresholds": "AP against the IoU threshold",
    "categories": "Differences by category", "speed": "AP against speed", "cost": "AP against the cost of training",
}  # fmt: skip
"""Figures of the report in their order; the pictures have a section of their own."""
MAX_VARIANTS = 6
"""Most rows whose predictions are shown: each has its outlines in the page."""
LONG_SIDE = 640
"""Largest side of a picture in pixels."""
QUALITY = 80
SIMPLER = 0.4
"""Largest distance in pixels of the picture between an outline and the mask that it is drawn for."""
COLORS = 10


def add_drawings(report: Report, study: Study, pool: Path, evaluation: str, resamples: int, pictures: int) -> None:
    """Add figures and pictures to a report, and a remark for each that cannot be drawn.

    Args:
        report: the report.
        study: the table of the sweep.
        pool: folder of runs.
        evaluation: name of the evaluation that is shown.
        resamples: resamples of the images for intervals; 0 leaves out the figures that need them.
        pictures: number of images with predictions.
    """
    groups, _ = read_groups(pool, study.sweep, evaluation)
    resampler = Resampler(resamples or Resampler().resamples)
    against = against_row(study)
    try:
        with paper_style():
            drawn = groups
    except UserError as error:
        report.remarks.append(f"No figures: {error.sentence}")
        drawn = []
    for group in drawn:
        labels = [variant.label for variant in group.variants]
        choices = Choices(
            base=study.base if study.base in labels else "", against=against if against in labels else "",
            metric=drawn_metric(study),
        )  # fmt: skip
        drawing = Drawing(group, pool, choices, resampler, study if study.metric == choices.metric else None)
        for name, title in TITLES.items():
            if not resamples and name in ("effects", "categories", "thresholds"):
                continue
            words = f"{title}, {group.title}" if len(groups) > 1 else title
            try:
                report.figures.append(contents.Figure(words, svg(drawing.draw(name), title)))
            except UserError as error:
                report.remarks.append(f"No figure '{words}': {error.sentence}")
    if pictures and groups:
        try:
            add_pictures(report, groups[0], study, resampler, pictures)
        except UserError as error:
            report.remarks.append(f"No predictions: {error.sentence}")


def drawn_metric(study: Study) -> str:
    """Return the metric of the figures: that of the differences, but that of masks where these are of boundaries."""
    section, name = study.metric.split(".")
    return f"segm.{name}" if section == BOUNDARY else study.metric


def against_row(study: Study) -> str:
    """Return the label of the row with the largest difference to the base; empty where there is none."""
    compared = [row for row in study.rows if row.delta is not None and row.label != study.base]
    return max(compared, key=lambda row: abs(row.delta or 0.0)).label if compared else ""


def add_pictures(report: Report, group: Group, study: Study, resampler: Resampler, number: int) -> None:
    """Add the predictions of rows on the images on which the base and the most different row differ most.

    One row after the other is read, because the predictions of one take a gigabyte on COCO.

    Args:
        report: the report.
        group: rows that were evaluated on the same images.
        study: the table of the sweep.
        resampler: reads predictions with their ground truth.
        number: number of images.

    Raises:
        UserError: where predictions, annotations or images are missing.
    """
    kind = drawn_metric(study).split(".")[0]
    labels = [variant.label for variant in group.variants]
    base = group.variant(study.base) if study.base in labels else group.variants[0]
    other = against_row(study)
    against = group.variant(other) if other in labels else group.variants[-1]
    first_run, second_run = pair_of_runs(base, against)
    first = read_predictions(base, first_run, resampler, kind)
    second = first if against is base else read_predictions(against, second_run, resampler, kind)
    chosen = most_different(image_scores(first.matches), image_scores(second.matches), number)
    chosen = chosen or list(range(min(number, len(first.truth.image_ids))))
    reader = ImageReader(first)
    images = [reduced(reader.read(image)) for image in chosen]
    variants = [base, *(each for each in group.variants if each is not base)][:MAX_VARIANTS]
    if against not in variants:
        variants[-1] = against
    overlays = [
        [overlay(0, objects_on(first, image), first, scale)] for image, (_, scale) in zip(chosen, images, strict=True)
    ]
    for index, variant in enumerate(variants, 1):
        predictions = (
            first if variant is base else second if variant is against else of_seed(variant, first, resampler, kind)
        )
        for place, image in enumerate(chosen):
            found = [shape for shape in shapes_on(predictions, image) if shape.kind != "missed"]
            overlays[place].append(overlay(index, found, predictions, images[place][1]))
    report.variants = ["ground truth", *(variant.label for variant in variants)]
    for image, (pixels, _), of_image in zip(chosen, images, overlays, strict=True):
        height, width = pixels.shape[:2]
        report.pictures.append(Picture(f"image {first.truth.image_ids[image]}", jpeg(pixels), width, height, of_image))
    report.pictures_note = (
        f"{len(chosen)} of {len(first.truth.image_ids)} images: those on which '{base.label}' and '{against.label}' "
        f"differ most (F1 of the {'masks' if kind == 'segm' else 'boxes'} with a score of 0.5 or more, seed "
        f"{first_run.seed}). Images that are chosen for their difference illustrate, and prove nothing."
    )


def of_seed(variant: Variant, first: Predictions, resampler: Resampler, kind: str) -> Predictions:
    """Return the predictions of a variant's run with the seed of another one, where there is such a run."""
    run = next((run for run in variant.runs if run.seed == first.run.seed), variant.runs[0])
    return read_predictions(variant, run, resampler, kind)


def overlay(variant: int, shapes: Sequence[Shape], predictions: Predictions, scale: float) -> Overlay:
    """Return the shapes of one variant on one image, in pixels of the picture."""
    names = predictions.truth.category_names
    drawn = []
    # Large shapes first, so that small ones stay visible.
    for shape in sorted(shapes, key=lambda shape: -shape.area):
        x, y = shape.box[0] * scale, shape.box[1] * scale
        drawn.append(
            contents.Shape(
                outline(shape, scale), shape.category, shape.score if shape.score is not None else 1.0,
                names.index(shape.category) % COLORS, (round(max(x, 2.0), 1), round(max(y, 12.0), 1)),
            )
        )  # fmt: skip
    return Overlay(variant, drawn)


def outline(shape: Shape, scale: float) -> str:
    """Return a mask's outlines, or the box where there is no mask, as the data of an SVG path."""
    if shape.mask is None:
        left, top, right, bottom = (round(value * scale, 1) for value in shape.box)
        return f"M{left},{top} H{right} V{bottom} H{left} Z"
    import cv2
    from pycocotools import mask as masks

    mask = masks.decode(shape.mask)
    x, y = (int(value) for value in shape.box[:2])
    # Only the part inside of the box is traced.
    part = mask[y : int(np.ceil(shape.box[3])) + 1, x : int(np.ceil(shape.box[2])) + 1]
    contours, _ = cv2.findContours(np.ascontiguousarray(part), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, SIMPLER / scale, True)[:, 0]
        places = (points + np.array([x + 0.5, y + 0.5])) * scale
        parts.append("M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in places.tolist()) + " Z")
    return " ".join(parts)


def reduced(pixels: Array) -> tuple[Array, float]:
    """Return an image [h, w, 3] of at most LONG_SIDE pixels a side, and its size relative to the original."""
    import cv2

    scale = min(1.0, LONG_SIDE / max(pixels.shape[:2]))
    if scale == 1.0:
        return pixels, scale
    size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), scale


def jpeg(pixels: Array) -> str:
    """Return an image [h, w, 3] uint8 RGB as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
