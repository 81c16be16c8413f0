"""Draw detections into an image: translucent masks, smooth contours, labels that do not cover each other."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from htc.structures import RLE

FILL = 0.4
"""Opacity of the masks."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
SUBPIXEL_BITS = 3
"""Number of fractional bits of the coordinates that OpenCV draws."""

Color = tuple[int, int, int]
"""RGB, 0..255."""


@dataclass
class Style:
    """Sizes in pixels, proportional to the image, so that labels are readable at 300 and at 4000 pixels."""

    line: int
    font_scale: float
    font_line: int
    padding: int

    @classmethod
    def for_size(cls, height: int, width: int) -> Style:
        unit = max(0.85, (height * width) ** 0.5 / 640)
        return cls(
            line=max(1, round(1.4 * unit)),
            font_scale=0.4 * unit,
            font_line=max(1, round(unit)),
            padding=max(2, round(2.5 * unit)),
        )


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray | None,
    rles: Sequence[RLE],
    names: Sequence[str],
) -> np.ndarray:
    """Draw the detections of one image, the one with the highest score on top.

    Args:
        image: [height, width, 3] uint8 RGB; not changed.
        boxes: [n, 4] xyxy in pixels of the image.
        labels: [n] class indices, positions in `names`.
        scores: [n] in 0..1; None for ground truth, whose labels are then drawn without a score.
        rles: n run-length encoded masks of the image's size.
        names: Name of each class.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    height, width = image.shape[:2]
    style = Style.for_size(height, width)
    colors = distinct_colors(len(boxes))
    canvas = np.ascontiguousarray(image).copy()
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()
    # Without scores, large objects are drawn first, so that they do not hide small ones.
    if scores is None:
        order = sorted(order, key=lambda i: -_area(boxes[i]))
    for index in order:
        _draw_mask(canvas, rles[index], colors[index], style)
    for index in order:
        _draw_box(canvas, boxes[index], colors[index], style)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    taken: list[tuple[int, int, int, int]] = []
    for index in reversed(list(order)):
        text = names[int(labels[index])] + ("" if scores is None else f" {float(scores[index]):.2f}")
        _draw_label(canvas, boxes[index], text, colors[index], style, corners, taken)
    return canvas


def distinct_colors(count: int) -> list[Color]:
    """Return `count` colors; neighbours differ in hue by the golden ratio, and in brightness or saturation."""
    colors = []
    for index in range(count):
        hue = (0.58 + index * 0.618034) % 1
        value, saturation = [(1.0, 0.85), (0.8, 0.95), (1.0, 0.55)][index % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _draw_mask(canvas: np.ndarray, rle: RLE, color: Color, style: Style) -> None:
    """Fill a mask and draw its contour; only the region of the mask is touched."""
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle))
    if w == 0 or h == 0:
        return
    region = np.ascontiguousarray(coco_mask.decode(rle)[y : y + h, x : x + w])
    pixels = canvas[y : y + h, x : x + w]
    inside = region > 0
    pixels[inside] = (pixels[inside] * (1 - FILL) + np.array(color) * FILL + 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    fixed = [((contour + np.array([x, y])) << SUBPIXEL_BITS).astype(np.int32) for contour in contours]
    cv2.polylines(canvas, fixed, True, color, style.line, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_box(canvas: np.ndarray, box: np.ndarray, color: Color, style: Style) -> None:
    height, width = canvas.shape[:2]
    # Box corners are on pixel edges, while OpenCV's coordinates are those of pixel centres.
    corners = np.clip(np.asarray(box, dtype=np.float64) - 0.5, 0, [width - 1, height - 1] * 2)
    x0, y0, x1, y1 = (round(float(value) * (1 << SUBPIXEL_BITS)) for value in corners)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), color, max(1, style.line // 2), cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_label(
    canvas: np.ndarray,
    box: np.ndarray,
    text: str,
    color: Color,
    style: Style,
    boxes: np.ndarray,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label at its box; leave it out if it would cover other labels everywhere."""
    height, width = canvas.shape[:2]
    text = text.encode("ascii", "replace").decode()
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, style.font_scale, style.font_line)
    w, h = text_width + 2 * style.padding, text_height + baseline + style.padding
    place = free_place(box, w, h, height, width, boxes, taken)
    if place is None:
        return
    left, top = place
    taken.append((left, top, left + w, top + h))
    cv2.rectangle(canvas, (left, top), (left + w - 1, top + h - 1), color, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
    origin = (left + style.padding, top + text_height + style.padding // 2 + baseline // 2)
    cv2.putText(canvas, text, origin, FONT, style.font_scale, ink, style.font_line, cv2.LINE_AA)


def free_place(
    box: np.ndarray,
    w: int,
    h: int,
    height: int,
    width: int,
    boxes: np.ndarray,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int] | None:
    """Find the position of a label at a box.

    The candidates are the corners of the box, then rows along its left side. Their cost is the sum of the shares of all
    boxes that the label would cover, so that small objects stay visible; earlier candidates cost slightly less.

    Args:
        box: [4] xyxy, the labelled object.
        w: Width of the label in pixels.
        h: Height of the label in pixels.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        boxes: [n, 4] xyxy, all objects of the image.
        taken: Rectangles (xyxy) of the labels that are drawn already.

    Returns:
        Left and top of the label; None if every candidate overlaps another label.
    """
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    candidates = [(x0, y0 - h), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1), (x0, y0), (x1 - w, y0), (x0, y1 - h)]
    candidates += [(x1, y0), (x0 - w, y0), (x1, y1 - h), (x0 - w, y1 - h)]
    candidates += [(x0, y) for y in range(y0 + h, min(y1, y0 + 12 * h), h)]
    corners = np.array(candidates)
    corners = np.stack([corners[:, 0].clip(0, max(width - w, 0)), corners[:, 1].clip(0, max(height - h, 0))], axis=1)
    rectangles = np.concatenate([corners, corners + np.array([w, h])], axis=1)
    over_labels = _overlaps(rectangles, np.array(taken, dtype=np.float64).reshape(-1, 4)).max(axis=1, initial=0)
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)
    hidden = (_overlaps(rectangles, boxes) / areas).sum(axis=1)
    cost = hidden + 0.03 * np.arange(len(corners)) + np.where(over_labels > 0, np.inf, 0)
    best = int(cost.argmin())
    return (int(corners[best, 0]), int(corners[best, 1])) if np.isfinite(cost[best]) else None


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the areas of intersection, [n, m], of the rectangles a [n, 4] and b [m, 4], xyxy."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap: np.ndarray = (high - low).clip(0).prod(axis=2)
    return overlap
