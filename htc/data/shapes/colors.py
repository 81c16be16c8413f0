"""Colors of the built-in data. As in photographs, a color makes a class likely but does not determine it."""

from __future__ import annotations

import colorsys

import numpy as np

OWN_HUE = 0.9
"""Share of things with about the hue of their class; the others have a random hue."""


def background_color(random: np.random.Generator, kind: int, kinds: int) -> np.ndarray:
    """Return a dull color for a background, with about the hue of its class: [3] float64 RGB, 0..255."""
    return _color(kind / kinds + random.normal(0, 0.06), random.uniform(0.15, 0.5), random.uniform(0.25, 0.75))


def thing_color(random: np.random.Generator, label: int, labels: int, background: np.ndarray) -> np.ndarray:
    """Return a vivid color for a thing that contrasts with its background.

    Args:
        random: Source of all draws.
        label: Class of the thing.
        labels: Number of classes.
        background: [3] RGB color behind the thing, 0..255.

    Returns:
        [3] float64 RGB, 0..255.
    """
    has_own_hue = random.random() < OWN_HUE
    best = background
    for _ in range(8):
        hue = label / labels + random.normal(0, 0.05) if has_own_hue else random.random()
        color = _color(hue, random.uniform(0.55, 1), random.uniform(0.35, 1))
        if np.linalg.norm(color - background) > np.linalg.norm(best - background):
            best = color
        if np.linalg.norm(best - background) > 90:
            break
    return best


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
