"""Colors of the built-in data: as in the world, they hint at what a thing or a ground is, and do not decide it."""

from __future__ import annotations

import colorsys

import numpy as np

OWN_HUE = 0.9
"""Share of things that have about their class's hue; the others have any."""


def ground_color(random: np.random.Generator, kind: int, kinds: int) -> np.ndarray:
    """A subdued color of a ground, about its own hue -> [3] float64 RGB, 0..255."""
    return _color(kind / kinds + random.normal(0, 0.06), random.uniform(0.15, 0.5), random.uniform(0.25, 0.75))


def thing_color(random: np.random.Generator, label: int, labels: int, ground: np.ndarray) -> np.ndarray:
    """A vivid color of a thing that stands out from the `ground` color [3] -> [3] float64 RGB, 0..255."""
    own = random.random() < OWN_HUE
    best = ground
    for _ in range(8):
        hue = label / labels + random.normal(0, 0.05) if own else random.random()
        color = _color(hue, random.uniform(0.55, 1), random.uniform(0.35, 1))
        if np.linalg.norm(color - ground) > np.linalg.norm(best - ground):
            best = color
        if np.linalg.norm(best - ground) > 90:
            break
    return best


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
