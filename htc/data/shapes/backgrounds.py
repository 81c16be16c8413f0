"""Backgrounds of the built-in data, its stuff classes: an image is divided into textured regions."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from htc.data.shapes.colors import background_color

Random = np.random.Generator


def draw_backgrounds(random: Random, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide an image into one to three textured regions.

    Returns:
        The picture [3, h, w] float32 RGB, 0..255; the background of each pixel, [h, w] uint8 index into `BACKGROUNDS`;
        and the region of each pixel, [h, w] uint8, numbered from 0.
    """
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    count = int(random.choice([1, 2, 3], p=[0.15, 0.5, 0.35]))
    kinds = random.choice(len(BACKGROUNDS), count, replace=False).astype(np.uint8)
    extent = max(height, width)
    regions = np.zeros((height, width), np.uint8)
    nearest = np.full((height, width), np.inf, np.float32)
    for region in range(count):
        center_x, center_y = random.uniform(0, width), random.uniform(0, height)
        distance = np.sqrt((x - center_x) ** 2 + (y - center_y) ** 2)
        distance += _smooth_noise(random, height, width, extent / 4) * (0.35 * extent)
        regions[distance < nearest] = region
        np.minimum(nearest, distance, out=nearest)
    texture = np.empty((height, width), np.float32)
    for region, kind in enumerate(kinds):
        np.copyto(texture, list(BACKGROUNDS.values())[kind](random, x, y), where=regions == region)
    dark = np.array([background_color(random, int(kind), len(BACKGROUNDS)) for kind in kinds], np.float32)
    difference = random.uniform(30, 70, (count, 1)) * random.choice([-1, 1], (count, 1))
    difference = (difference + random.uniform(-20, 20, (count, 3))).astype(np.float32)
    picture = np.empty((3, height, width), np.float32)
    for plane, base, step in zip(picture, dark.T, difference.T, strict=True):
        np.multiply(texture, step.take(regions), out=plane)
        plane += base.take(regions)
    return picture, kinds[regions], regions


def _smooth_noise(random: Random, height: int, width: int, grain: float) -> np.ndarray:
    """Return smooth noise [h, w] float32 of about -1..1 with structures of `grain` pixels."""
    coarse = random.uniform(-1, 1, (int(height / grain) + 2, int(width / grain) + 2)).astype(np.float32)
    noise: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return noise


def _rotate(random: Random, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate the coordinates by a random angle."""
    angle = random.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _noise(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * _smooth_noise(random, y.size, x.size, random.uniform(1.5, 3))


def _stripes(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, _ = _rotate(random, x, y)
    return 0.5 + 0.5 * np.sin(along * np.float32(2 * np.pi / random.uniform(6, 16)))


def _checker(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, across = _rotate(random, x, y)
    side = np.float32(random.uniform(6, 13))
    return (np.floor(along / side) + np.floor(across / side)) % 2


def _gradient(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, _ = _rotate(random, x, y)
    ramp: np.ndarray = (along - along.min()) / np.ptp(along)
    return ramp


def _blobs(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 3 * _smooth_noise(random, y.size, x.size, random.uniform(8, 16)), 0, 1)


def _dots(random: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, across = _rotate(random, x, y)
    pitch = np.float32(random.uniform(9, 16))
    radius = np.float32(random.uniform(0.22, 0.34)) * pitch
    from_center = np.hypot(along % pitch - pitch / 2, across % pitch - pitch / 2)
    inside: np.ndarray = np.clip(radius - from_center + np.float32(0.5), 0, 1)
    return inside


BACKGROUNDS: dict[str, Callable[[Random, np.ndarray, np.ndarray], np.ndarray]] = {
    "noise": _noise,
    "stripes": _stripes,
    "checker": _checker,
    "gradient": _gradient,
    "blobs": _blobs,
    "dots": _dots,
}
"""Name -> function from the pixels' x [1, w] and y [h, 1] to a texture [h, w], 0..1; in the order of stuff labels."""
