"""Draw a contact sheet: sampled images with their objects and semantic maps, for visual inspection."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from htc.data.coco.annotations import Annotations
from htc.data.image_reading import read_image
from htc.data.semantic import SemanticTargets
from htc.data.transforms import resize_image, resize_labels
from htc.errors import UserError
from htc.structures import IGNORE_LABEL
from htc.visualize import draw_detections

CELL_WIDTH, CELL_HEIGHT = 560, 420
"""Size of one picture in pixels."""
MARGIN, CAPTION = 12, 28
"""Width of the margins and height of a caption in pixels."""
COLUMNS = 2
SMALLEST_NAMED = 0.02
"""Smallest share of a picture that a region must cover for its class to be named."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
CLASS_FONT = 0.65
BACKGROUND, TEXT_COLOR = 255, (30, 30, 30)


def contact_sheet(
    annotations: Annotations, semantic: SemanticTargets | None, count: int, seed: int = 0
) -> np.ndarray | None:
    """Draw a random sample of the images that have objects, with masks, boxes and class names.

    Images that cannot be read are left out.

    Args:
        annotations: Annotations of the split.
        semantic: If given, the semantic map of each image is drawn next to it.
        count: Number of images.
        seed: Seed for the choice of images.

    Returns:
        [height, width, 3] uint8 RGB; None if no image is left.
    """
    candidates = np.flatnonzero(annotations.usable_per_image() > 0)
    chosen = np.random.default_rng(seed).permutation(candidates)[:count]
    cells = [cell for image in np.sort(chosen).tolist() if (cell := _cell(annotations, semantic, image)) is not None]
    if not cells:
        return None
    columns = min(COLUMNS if semantic is not None else 2 * COLUMNS, len(cells))
    blank = np.full_like(cells[0], BACKGROUND)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    sheet = np.concatenate(rows)
    return np.pad(sheet, ((MARGIN, 0), (MARGIN, 0), (0, 0)), constant_values=BACKGROUND)


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    """Write the sheet as a PNG file. Raises UserError if that fails."""
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder with out=DIR.") from error


def _cell(annotations: Annotations, semantic: SemanticTargets | None, image: int) -> np.ndarray | None:
    """Draw one image with its caption and its semantic map; return None if it cannot be read."""
    old = int(annotations.heights[image]), int(annotations.widths[image])
    scale = min(CELL_HEIGHT / old[0], CELL_WIDTH / old[1])
    size = max(1, round(old[0] * scale)), max(1, round(old[1] * scale))
    of_image = annotations.of_image(image)
    objects = of_image[annotations.usable[of_image]]
    try:
        picture = resize_image(read_image(annotations.image_path(image), old), size)
        masks = np.stack([resize_labels(annotations.mask(image, index), size) for index in objects])
        labels = None if semantic is None else semantic.of_image(image, objects, masks, size)
    except UserError:
        # This is already in the list of problems.
        return None
    boxes = annotations.boxes[objects] * scale
    rles = [mask_utils.encode(np.asfortranarray(mask)) for mask in masks]
    drawn = draw_detections(picture, boxes, annotations.labels[objects], None, rles, annotations.category_names)
    crowds = int(annotations.crowd[of_image].sum())
    caption = f"{annotations.file_name(image)}   {old[1]} x {old[0]}   {len(objects)} objects"
    caption += f", {crowds} crowds" if crowds else ""
    panels = [_framed(drawn, caption)]
    if labels is not None and semantic is not None:
        names = [] if semantic.folder is not None else ["", *annotations.category_names]
        source = "drawn from the masks" if semantic.folder is None else "stuff map"
        panels.append(_framed(draw_classes(picture, labels, names), f"{source}; black: ignored"))
    return np.concatenate(panels, axis=1)


def draw_classes(picture: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Draw a semantic map over the grey picture and name the class of each large region.

    Args:
        picture: [h, w, 3] uint8 RGB.
        labels: [h, w] uint8 class indices.
        names: Names of the classes. A class without a name is labelled by its index, one with an empty name not at all.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colors = np.array([_class_color(value) for value in range(256)], np.float32)
    drawn: np.ndarray = (0.35 * grey + 0.65 * colors[labels]).astype(np.uint8)
    for value in np.unique(labels).tolist():
        text = names[value] if value < len(names) else str(value)
        if value == IGNORE_LABEL or not text:
            continue
        count, regions, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8))
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else 0
        if stats[largest, cv2.CC_STAT_AREA] < SMALLEST_NAMED * labels.size:
            continue
        # The text is at the pixel furthest from the region's border, because a centroid can be outside of the region.
        inside = np.pad((regions == largest).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        (width, height), _ = cv2.getTextSize(text, FONT, CLASS_FONT, 2)
        origin = (int(np.clip(x - width // 2, 0, max(labels.shape[1] - width, 0))), int(y) + height // 2)
        cv2.putText(drawn, text, origin, FONT, CLASS_FONT, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.putText(drawn, text, origin, FONT, CLASS_FONT, (255, 255, 255), 2, cv2.LINE_AA)
    return drawn


def _class_color(value: int) -> tuple[float, float, float]:
    """Return the RGB color of a class, the same in all pictures: black for ignored pixels, grey for class 0."""
    if value == IGNORE_LABEL:
        return 0.0, 0.0, 0.0
    if value == 0:
        return 128.0, 128.0, 128.0
    red, green, blue = colorsys.hsv_to_rgb(value * 0.618034 % 1, (0.9, 0.6)[value % 2], (1.0, 0.75, 0.9)[value % 3])
    return 255 * red, 255 * green, 255 * blue


def _framed(picture: np.ndarray, caption: str) -> np.ndarray:
    """Return a cell of fixed size with the picture in its centre and the caption below."""
    cell = np.full((CELL_HEIGHT + CAPTION + MARGIN, CELL_WIDTH + MARGIN, 3), BACKGROUND, np.uint8)
    top, left = (CELL_HEIGHT - picture.shape[0]) // 2, (CELL_WIDTH - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    text = caption.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, FONT, 0.5, 1)[0][0] > CELL_WIDTH:
        text = text[1:]
    cv2.putText(cell, text, (left, CELL_HEIGHT + 20), FONT, 0.5, TEXT_COLOR, 1, cv2.LINE_AA)
    return cell
