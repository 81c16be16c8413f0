"""Draw one image of the built-in data: backgrounds, things that occlude each other, and distracting textures."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from htc.config.schema import ShapesDifficulty
from htc.data.shapes.backgrounds import BACKGROUNDS, draw_backgrounds
from htc.data.shapes.colors import thing_color
from htc.data.shapes.outlines import OUTLINES, STROKES, draw_shape
from htc.structures import IGNORE_LABEL

Random = np.random.Generator

THINGS = [*OUTLINES, *STROKES]
"""Names of the things; the position is the label."""
STUFF = list(BACKGROUNDS)
"""Names of the backgrounds; the position plus the number of things is the label in stuff maps."""

FEWEST_PIXELS = 24
"""Smallest visible area of a thing or a crowd."""
SMALLEST_VISIBLE_SHARE = 0.25
"""Smallest share of a thing that is not occluded."""
REFERENCE_SIZE = 128
"""Image size in pixels to which the sizes of things below refer; they scale with the image."""


@dataclass(frozen=True)
class Difficulty:
    """What makes the images difficult."""

    texture_on: dict[str, tuple[str, ...]]
    """Shape -> backgrounds on which the shape is only texture. Elsewhere it is a thing, so only the context decides."""
    textures: tuple[int, int]
    """Fewest and most shapes that are drawn as texture, per shape and background, with the upper bound excluded."""
    grouped: float
    """Probability that a thing has neighbours of its class that it overlaps."""
    same_color: float
    """Probability that such neighbours have one color."""
    thin: float
    """How often a shape of THIN is drawn, relative to any other."""


THIN = ("ring", "crescent", "zigzag", "hook")
"""Shapes whose masks are thin or concave."""
DIFFICULTIES = {
    ShapesDifficulty.standard: Difficulty(
        {"disc": ("dots",), "square": ("checker",)}, textures=(2, 6), grouped=0.2, same_color=0.5, thin=1.0
    ),
    # For each shape another half of the backgrounds: no background is enough to tell things from texture.
    ShapesDifficulty.hard: Difficulty(
        {
            "disc": ("dots", "checker", "noise"),
            "square": ("checker", "stripes", "gradient"),
            "triangle": ("stripes", "blobs", "dots"),
            "star": ("noise", "gradient", "blobs"),
        },
        textures=(1, 4), grouped=0.6, same_color=0.9, thin=1.3,
    ),
}  # fmt: skip


@dataclass
class Thing:
    """One object of an image, or a crowd of objects."""

    label: int
    visible: np.ndarray
    """[h, w] uint8, 0 or 1: the pixels that are not occluded."""
    crowd: bool = False


@dataclass
class Scene:
    """One image with its labels."""

    image: np.ndarray
    """[h, w, 3] uint8 RGB."""
    stuff: np.ndarray
    """[h, w] uint8: labels of things, then of backgrounds; 255 unlabelled."""
    things: list[Thing] = field(default_factory=list)


def draw_scene(random: Random, image_size: int, difficulty: ShapesDifficulty = ShapesDifficulty.standard) -> Scene:
    """Draw one image whose sides are `image_size` pixels or up to a quarter longer."""
    hard = DIFFICULTIES[difficulty]
    stretch = random.uniform(1, 1.25, 2) if random.random() < 0.5 else np.ones(2)
    height, width = (np.rint(image_size * stretch)).astype(int).tolist()
    scale = image_size / REFERENCE_SIZE
    picture, backgrounds, regions = draw_backgrounds(random, height, width)
    _draw_texture_shapes(random, picture, backgrounds, scale, hard)
    things, layers = _place_things(random, picture, backgrounds, scale, hard)
    occupied = np.zeros((height, width), np.uint8)
    for mask, _ in layers:
        np.maximum(occupied, mask, out=occupied)
    crowd = _draw_crowd(random, picture, occupied, scale, hard) if random.random() < 0.06 else None
    for mask, color in reversed(layers):
        _paint(random, picture, mask, color)

    stuff = backgrounds + np.uint8(len(THINGS))
    if random.random() < 0.5:
        border = cv2.morphologyEx(regions, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        stuff[border > 0] = IGNORE_LABEL
    if crowd is not None:
        things.append(crowd[0])
        stuff[crowd[1] > 0] = crowd[0].label
    for thing in things:
        if not thing.crowd:
            stuff[thing.visible > 0] = thing.label
    return Scene(_simulate_camera(random, picture), stuff, things)


def _draw_texture_shapes(
    random: Random, picture: np.ndarray, backgrounds: np.ndarray, scale: float, difficulty: Difficulty
) -> None:
    """Draw shapes that look like things onto the backgrounds on which they are texture."""
    height, width = backgrounds.shape
    for shape, textured in difficulty.texture_on.items():
        for background in textured:
            inside = backgrounds == STUFF.index(background)
            if not inside.any():
                continue
            pixels = np.flatnonzero(inside)
            for _ in range(int(random.integers(*difficulty.textures))):
                y, x = divmod(int(random.choice(pixels)), width)
                mask = draw_shape(shape, random, (x, y), _size(random, scale), (height, width))
                if np.count_nonzero(mask[inside]) >= 0.85 * np.count_nonzero(mask):
                    _paint(random, picture, mask, _color_on(random, THINGS.index(shape), picture[:, y, x]))


def _place_things(
    random: Random, picture: np.ndarray, backgrounds: np.ndarray, scale: float, difficulty: Difficulty
) -> tuple[list[Thing], list[tuple[np.ndarray, np.ndarray]]]:
    """Place things from front to back; a thing that would be mostly occluded is left out.

    Args:
        random: Source of all draws.
        picture: [3, h, w] float32 RGB, from which the colors behind the things are read.
        backgrounds: [h, w] uint8, background of each pixel.
        scale: Image size relative to `REFERENCE_SIZE`.
        difficulty: What makes the images difficult.

    Returns:
        The things and, in the same order, their unoccluded masks with their colors.
    """
    height, width = backgrounds.shape
    wanted = int(random.integers(2, 7))
    free = np.ones((height, width), np.uint8)
    things: list[Thing] = []
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(3 * wanted):
        if len(things) >= wanted:
            break
        label = _draw_label(random, difficulty)
        size = _size(random, scale)
        center = random.uniform(0.08, 0.92, 2) * (width, height)
        group = int(random.integers(2, 4)) if random.random() < difficulty.grouped else 1
        same_color = random.random() < difficulty.same_color
        color = None
        for _ in range(group):
            x, y = np.clip(center, 0, (width - 1, height - 1)).astype(int)
            mask = draw_shape(THINGS[label], random, (center[0], center[1]), size, (height, width))
            area = int(np.count_nonzero(mask))
            visible = mask & free
            if (
                np.count_nonzero(visible) >= max(FEWEST_PIXELS, SMALLEST_VISIBLE_SHARE * area)
                and not _is_texture(label, mask, backgrounds, area, difficulty)
                and len(things) < wanted
            ):
                if color is None or not same_color:
                    color = _color_on(random, label, picture[:, y, x])
                things.append(Thing(label, visible))
                layers.append((mask, color + random.uniform(-12, 12, 3)))
                free &= 1 - mask
            direction = random.uniform(0, 2 * np.pi)
            center = center + size * random.uniform(0.45, 0.85) * np.array([np.cos(direction), np.sin(direction)])
            size = size * random.uniform(0.8, 1.25)
    return things, layers


def _draw_label(random: Random, difficulty: Difficulty) -> int:
    if difficulty.thin == 1.0:
        return int(random.integers(len(THINGS)))
    weights = np.array([difficulty.thin if name in THIN else 1.0 for name in THINGS])
    return int(random.choice(len(THINGS), p=weights / weights.sum()))


def _is_texture(label: int, mask: np.ndarray, backgrounds: np.ndarray, area: int, difficulty: Difficulty) -> bool:
    """Return whether so much of a shape is on backgrounds where it is texture that it does not look like a thing."""
    textured = difficulty.texture_on.get(THINGS[label])
    if textured is None:
        return False
    inside = np.isin(backgrounds, [STUFF.index(background) for background in textured])
    return int(np.count_nonzero(mask[inside])) > 0.2 * area


def _draw_crowd(
    random: Random, picture: np.ndarray, occupied: np.ndarray, scale: float, difficulty: Difficulty
) -> tuple[Thing, np.ndarray] | None:
    """Draw many tiny things of one class.

    Args:
        random: Source of all draws.
        picture: [3, h, w] float32 RGB, into which the crowd is drawn.
        occupied: [h, w] uint8, pixels of the things in front of the crowd.
        scale: Image size relative to `REFERENCE_SIZE`.
        difficulty: What makes the images difficult.

    Returns:
        The region as a crowd, and the visible pixels of its members [h, w]; None if the region is too small.
    """
    height, width = occupied.shape
    label = THINGS.index(str(random.choice([name for name in THINGS if name not in difficulty.texture_on])))
    center = random.uniform(0.25, 0.75, 2) * (width, height)
    radius = random.uniform(22, 38) * scale
    members = np.zeros((height, width), np.uint8)
    for _ in range(int(random.integers(25, 45))):
        offset = np.clip(random.normal(0, 0.5, 2), -1, 1) * radius
        x, y = center + offset
        members |= draw_shape(THINGS[label], random, (x, y), random.uniform(6, 10) * scale, (height, width))
    reach = int(9 * scale) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    region = cv2.morphologyEx(members, cv2.MORPH_CLOSE, kernel) & (1 - occupied)
    if np.count_nonzero(region) < FEWEST_PIXELS:
        return None
    _paint(random, picture, members, _color_on(random, label, picture[:, int(center[1]), int(center[0])]))
    return Thing(label, region, crowd=True), members & (1 - occupied)


def _size(random: Random, scale: float) -> float:
    """Return a diameter in pixels: 26 to 72, and in one case of eight 70 to 120, times `scale`."""
    low, high = (70, 120) if random.random() < 0.125 else (26, 72)
    return scale * float(np.exp(random.uniform(np.log(low), np.log(high))))


def _color_on(random: Random, label: int, background: np.ndarray) -> np.ndarray:
    return thing_color(random, label, len(THINGS), background)


def _paint(random: Random, picture: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
    """Paint a shape onto the picture, shaded from one side, with a soft shadow below it."""
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return
    reach = 6
    window = (
        slice(max(top - reach, 0), top + height + reach),
        slice(max(left - reach, 0), left + width + reach),
    )
    part, inside = picture[:, *window], mask[window]
    shadow = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.5)
    shadow = cv2.warpAffine(shadow, np.array([[1, 0, 1.5], [0, 1, 1.5]], np.float32), shadow.shape[::-1])
    part *= 1 - np.float32(random.uniform(0.15, 0.5)) * shadow
    direction, strength = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.3)
    y = np.linspace(-1, 1, inside.shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, inside.shape[1], dtype=np.float32)[None, :]
    shade = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    if random.random() < 0.3:
        shade = shade * (1 + 0.12 * np.sin(random.uniform(8, 20) * (np.sin(direction) * x - np.cos(direction) * y)))
    shade = shade.astype(np.float32)
    for plane, value in zip(part, color, strict=True):
        np.copyto(plane, shade * np.float32(value), where=inside > 0)


def _simulate_camera(random: Random, picture: np.ndarray) -> np.ndarray:
    """Simulate light, lens and sensor by uneven brightness, mild blur and noise; return [h, w, 3] uint8."""
    _, height, width = picture.shape
    light = cv2.resize(random.uniform(0.8, 1.15, (3, 3)).astype(np.float32), (width, height))
    sigma = random.uniform(0.4, 0.9)
    grain = random.standard_normal((height, width), np.float32)
    grain *= random.uniform(2, 9)
    image = np.empty((height, width, 3), np.uint8)
    for channel, plane in enumerate(picture):
        lit = cv2.GaussianBlur(plane * light, (0, 0), sigma) + grain
        image[:, :, channel] = np.clip(lit, 0, 255, out=lit)
    return image
