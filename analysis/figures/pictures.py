"""Images with the outlines of objects and detections, which differ in color and in line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures.predictions import Predictions, Shape
from analysis.figures.style import COLORS, DARK, plain, text_width
from analysis.statistics.truth import Array
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: dict[str, tuple[str, Any, str]] = {
    "object": ("#ffffff", "-", "object"),
    "found": (COLORS[9], "-", "found (IoU 0.5)"),
    "false": (COLORS[6], (0, (4, 1.2)), "false"),
    "duplicate": (COLORS[4], (0, (4, 1.2, 1, 1.2)), "duplicate"),
    "missed": (COLORS[1], (0, (1, 1)), "missed"),
}
"""Color, line and words of each kind of shape."""
Window = tuple[int, int, int, int]
LINE = 1.1
FILL = 0.25
"""Opacity of the masks of detections."""
SMALL = 6.0
"""Size of the words on images, in points."""


class ImageReader:
    """Reads the images of an evaluation from the folder of its data."""

    def __init__(self, predictions: Predictions) -> None:
        """Find the folder and the names of the images. Raises UserError where they are missing."""
        truth, settings = predictions.truth, predictions.run.settings
        self.truth = truth
        annotations = Path(str(settings.get("data.val.annotations") or "annotations/instances.json"))
        is_below = truth.source.parts[-len(annotations.parts) :] == annotations.parts
        root = truth.source.parents[len(annotations.parts) - 1] if is_below else truth.source.parent.parent
        self.folder = root / str(settings.get("data.val.images") or "")
        try:
            content = json.loads(truth.source.read_bytes())
            self.names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{truth.source} does not name the images ({type(error).__name__}: {error}).") from None
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder} does not exist: pictures need the images of the evaluation. Put the data back there, "
                "or evaluate the runs again where the data is."
            )

    def read(self, image: int) -> Array:
        """Return an image by its index: [height, width, 3] uint8 RGB. Raises UserError where it cannot be read."""
        from PIL import Image, ImageOps

        path = self.folder / self.names[self.truth.image_ids[image]]
        height, width = self.truth.sizes[image]
        try:
            with Image.open(path) as opened:
                # As in training, an image whose size is recorded without the rotation of its EXIF data is not rotated.
                upright = ImageOps.exif_transpose(opened) or opened
                chosen = upright if upright.size == (width, height) else opened
                pixels = np.asarray(chosen.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read as an image ({error}): pictures need it.") from None
        if pixels.shape[:2] != (height, width):
            raise UserError(
                f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, and the annotations say {width} x {height}."
            )
        return pixels


def draw_picture(axis: Axes, pixels: Array, shapes: Sequence[Shape], window: Window | None = None) -> None:
    """Draw an image, or a window of it, with outlines.

    Args:
        axis: axes that hold nothing else.
        pixels: [height, width, 3] uint8 RGB.
        shapes: what is drawn, from the one on top to the one at the bottom.
        window: left, top, right and bottom of what is drawn, in whole pixels; None for the whole image.
    """
    from matplotlib.patheffects import withStroke

    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = window or (0, 0, width, height)
    # Only the window becomes a part of a PDF.
    filled = _filled(pixels, [shape for shape in shapes if shape.score is not None])[y0:y1, x0:x1]
    axis.imshow(filled, interpolation="nearest", extent=(x0 - 0.5, x1 - 0.5, y1 - 0.5, y0 - 0.5))
    for shape in reversed(shapes):
        color, line, _ = LOOKS[shape.kind]
        for x, y in _contours(shape, height, width):
            axis.plot(
                x, y, color=color, linestyle=line, linewidth=LINE, solid_joinstyle="round",
                path_effects=[withStroke(linewidth=LINE + 0.9, foreground=DARK)],
            )  # fmt: skip
    frame(axis)
    axis.set_xlim(x0 - 0.5, x1 - 0.5)
    axis.set_ylim(y1 - 0.5, y0 - 0.5)


def frame(axis: Axes) -> None:
    """Remove ticks, grid and spines."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def legend_entries(kinds: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return the lines and the words that explain some kinds of shapes."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    stroke = [withStroke(linewidth=LINE + 0.9, foreground=DARK)]
    handles = [
        Line2D([], [], color=LOOKS[kind][0], linestyle=LOOKS[kind][1], linewidth=LINE, path_effects=stroke)
        for kind in kinds
    ]
    return handles, [LOOKS[kind][2] for kind in kinds]


def _filled(pixels: Array, shapes: Sequence[Shape]) -> Array:
    """Return a copy of an image in which masks have the colors of their kinds."""
    from matplotlib.colors import to_rgb
    from pycocotools import mask as masks

    canvas = pixels.astype(np.float32)
    for shape in reversed(shapes):
        if shape.mask is not None:
            inside = masks.decode(shape.mask).astype(bool)
            color = 255 * np.array(to_rgb(LOOKS[shape.kind][0]), dtype=np.float32)
            canvas[inside] = (1 - FILL) * canvas[inside] + FILL * color
    filled: Array = canvas.round().astype(np.uint8)
    return filled


def _contours(shape: Shape, height: int, width: int) -> list[tuple[Array, Array]]:
    """Return the closed outlines of a shape: x and y in pixels, where pixel centres are whole numbers."""
    if shape.mask is None:
        x0, y0, x1, y1 = np.array(shape.box) - 0.5
        return [(np.array([x0, x1, x1, x0, x0]), np.array([y0, y0, y1, y1, y0]))]
    import cv2
    from pycocotools import mask as masks

    found, _ = cv2.findContours(masks.decode(shape.mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    closed = [np.concatenate([contour[:, 0], contour[:1, 0]]) for contour in found]
    return [(points[:, 0], points[:, 1]) for points in closed]


def write_words(axis: Axes, shapes: Sequence[Shape]) -> None:
    """Write category and score of each detection at its box, unless it would cover other words everywhere.

    Args:
        axis: axes that `draw_picture` has drawn, in a figure whose layout is done.
        shapes: what it shows.
    """
    from htc.visualize import free_place

    width, height = round(axis.get_xlim()[1] + 0.5), round(axis.get_ylim()[0] + 0.5)
    # Inches per pixel of the image.
    inches = axis.get_window_extent().width / axis.figure.dpi / width
    boxes = np.array([shape.box for shape in shapes], dtype=np.float64).reshape(-1, 4)
    taken: list[tuple[int, int, int, int]] = []
    for shape in shapes:
        if shape.score is None:
            continue
        words = plain(f"{shape.category} {shape.score:.2f}"[:40])
        w = round((text_width(words) * SMALL / 8 + 0.03) / inches)
        h = round((SMALL * 1.25 / 72) / inches)
        place = free_place(np.array(shape.box), w, h, height, width, boxes, taken)
        if place is not None:
            left, top = place
            taken.append((left, top, left + w, top + h))
            drawn = axis.text(
                left, top + h / 2, words, fontsize=SMALL, color="#ffffff", va="center", ha="left", clip_on=True,
                bbox={"facecolor": DARK, "alpha": 0.65, "linewidth": 0, "pad": 0.6},
            )  # fmt: skip
            drawn.set_in_layout(False)
