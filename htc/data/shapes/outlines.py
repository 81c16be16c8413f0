"""Outlines of the built-in data's shapes: compact ones, concave ones, and thin ones a few pixels wide."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Random = np.random.Generator

SUBPIXEL_BITS = 4
"""Number of fractional bits of the fixed-point coordinates that OpenCV draws."""


def draw_shape(
    name: str, random: Random, center: tuple[float, float], size: float, image_size: tuple[int, int]
) -> np.ndarray:
    """Draw one shape at a random angle.

    Args:
        name: Key of `OUTLINES` or `STROKES`.
        random: Source of all draws.
        center: (x, y) in pixels.
        size: Approximate diameter in pixels.
        image_size: (h, w) in pixels.

    Returns:
        The mask [h, w] uint8, 0 or 1.
    """
    angle = random.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mask = np.zeros(image_size, np.uint8)

    def fixed_point(points: np.ndarray) -> list[np.ndarray]:
        return [np.rint((points * (size / 2) @ rotation + center) * 2**SUBPIXEL_BITS).astype(np.int32)]

    if name in STROKES:
        thickness = int(np.clip(round(size * random.uniform(0.06, 0.13)), 2, 12))
        line = fixed_point(STROKES[name](random))
        cv2.polylines(mask, line, False, 1, thickness, cv2.LINE_8, SUBPIXEL_BITS)
        return mask
    outline, hole = OUTLINES[name](random)
    cv2.fillPoly(mask, fixed_point(outline), 1, cv2.LINE_8, SUBPIXEL_BITS)
    if hole is not None:
        cv2.fillPoly(mask, fixed_point(hole), 0, cv2.LINE_8, SUBPIXEL_BITS)
    return mask


def _circle(radius: float = 1.0, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + center


def _disc(random: Random) -> tuple[np.ndarray, None]:
    return _circle() * [1.0, random.uniform(0.82, 1.0)], None


def _square(random: Random) -> tuple[np.ndarray, None]:
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.8
    return corners * [1.0, random.uniform(0.8, 1.0)], None


def _triangle(random: Random) -> tuple[np.ndarray, None]:
    angles = np.array([0.0, 2.0, 4.0]) * np.pi / 3 + random.uniform(-0.25, 0.25, 3)
    return np.stack([np.cos(angles), np.sin(angles)], 1), None


def _star(random: Random) -> tuple[np.ndarray, None]:
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, random.uniform(0.34, 0.46))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None], None


def _ring(random: Random) -> tuple[np.ndarray, np.ndarray]:
    squeeze = [1.0, random.uniform(0.82, 1.0)]
    return _circle() * squeeze, _circle(random.uniform(0.62, 0.82)) * squeeze


def _crescent(random: Random) -> tuple[np.ndarray, np.ndarray]:
    return _circle(), _circle(random.uniform(0.8, 0.9), (random.uniform(0.4, 0.55), 0.0))


def _zigzag(random: Random) -> np.ndarray:
    corners = int(random.integers(4, 7))
    x = np.linspace(-0.95, 0.95, corners)
    y = np.where(np.arange(corners) % 2 == 0, 1, -1) * random.uniform(0.3, 0.42)
    return np.stack([x, y], 1)


def _hook(random: Random) -> np.ndarray:
    angles = np.linspace(0, random.uniform(1.1, 1.4) * 2 * np.pi, 48)
    radii = np.linspace(0.22, 0.95, 48)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


OUTLINES: dict[str, Callable[[Random], tuple[np.ndarray, np.ndarray | None]]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "crescent": _crescent,
}
"""Name -> function that returns an outline and a region that is cut out of it, both [k, 2] within the unit circle."""

STROKES: dict[str, Callable[[Random], np.ndarray]] = {"zigzag": _zigzag, "hook": _hook}
"""Name -> function that returns a line [k, 2] within the unit circle, which is drawn 2 to 12 px wide."""
