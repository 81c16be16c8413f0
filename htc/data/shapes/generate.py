"""Generate the built-in data set `shapes` in COCO layout.

The data are difficult where Hybrid Task Cascade should help: neighbours of one class overlap (boxes), outlines are thin
and concave (masks), and discs and squares are things on most backgrounds but texture on one (context).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from htc.config.schema import DataConfig, ShapesConfig, ShapesDifficulty, SplitConfig
from htc.data.shapes.scene import STUFF, THINGS, Thing, draw_scene
from htc.errors import UserError

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 3
"""Increased whenever the same ShapesConfig gives different data, so that folders of an old version are not used."""
CATEGORY_IDS = [1, 2, 3, 5, 7, 8, 11, 13]
"""Category ids with gaps, as in COCO."""
SPLITS = {"train2017": 1, "val2017": 1_000_001}
"""Name of each split -> id of its first image; image ids are also seeds."""
MAX_IMAGES = 1_000_000
"""Most images of a split: more would use the ids of the next split, and a wrong number must not fill the disk."""
CONTOUR_SCALE = 2
"""Factor by which masks are enlarged before their contours are traced."""


def ensure_shapes(config: DataConfig) -> DataConfig:
    """Generate the data below `config.root`, unless they exist, and return a configuration that points to them.

    A configuration that already points to them is returned unchanged.

    The folder's name contains a hash of `config.shapes`. The folder gets this name only when it is complete, so neither
    a killed run nor two runs at the same time can damage it. Raises UserError if a setting is out of range or the root
    is not writable.
    """
    shapes = config.shapes or ShapesConfig()
    counts = shapes.train_images, shapes.val_images
    if min(counts) < 1 or max(counts) > MAX_IMAGES or shapes.image_size < 64 or shapes.seed < 0:
        raise UserError(
            f"data.shapes={dataclasses.asdict(shapes)}: train_images and val_images must be 1 to {MAX_IMAGES}, "
            "image_size 64 or more and seed 0 or more."
        )
    name = f"shapes-{hashlib.sha256(_settings(shapes).encode()).hexdigest()[:8]}"
    if Path(config.root).name == name:
        return config
    folder = Path(config.root) / name
    if not folder.is_dir():
        try:
            _generate_once(shapes, folder)
        except OSError as error:
            raise UserError(
                f"The built-in data cannot be written to data.root={config.root} ({error}): choose another folder."
            ) from error
    train, val = SPLITS
    return dataclasses.replace(config, root=str(folder), train=_split(config.train, train), val=_split(config.val, val))


def _settings(shapes: ShapesConfig) -> str:
    """Return what decides the data, as text. The standard difficulty is left out: its data are older than the key."""
    settings = {**dataclasses.asdict(shapes), "difficulty": shapes.difficulty.value}
    if shapes.difficulty is ShapesDifficulty.standard:
        del settings["difficulty"]
    return json.dumps([GENERATOR_VERSION, settings], sort_keys=True)


def _split(split: SplitConfig, name: str) -> SplitConfig:
    return dataclasses.replace(
        split,
        images=name,
        annotations=f"annotations/instances_{name}.json",
        stuff=f"stuffthingmaps/{name}",
    )


def _generate_once(shapes: ShapesConfig, folder: Path) -> None:
    """Generate the data next to `folder` and rename them; if another process was faster, keep its identical data."""
    started = time.monotonic()
    logger.info("Generating the built-in data into %s.", folder)
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        for name, count in zip(SPLITS, (shapes.train_images, shapes.val_images), strict=True):
            _write_split(partial, name, count, shapes)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("Generated the built-in data in %.0f s.", time.monotonic() - started)


def _write_split(root: Path, name: str, count: int, shapes: ShapesConfig) -> None:
    """Write images, stuff maps and annotations of one split.

    Each image depends only on the seed, the image size and its id, so a larger split contains a smaller one.

    Args:
        root: Folder of the data set.
        name: Key of `SPLITS`.
        count: Number of images.
        shapes: Seed and image size.
    """
    for folder in (root / name, root / "stuffthingmaps" / name, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(SPLITS[name], SPLITS[name] + count):
        scene = draw_scene(np.random.default_rng([shapes.seed, image_id]), shapes.image_size, shapes.difficulty)
        height, width = scene.stuff.shape
        file_name = f"{image_id:012d}.jpg"
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        _write_image(root / name / file_name, scene.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write_image(
            root / "stuffthingmaps" / name / f"{image_id:012d}.png", scene.stuff, [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        for thing in scene.things:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotate(thing)})
    categories = [
        {"id": category_id, "name": thing, "supercategory": "shape"}
        for category_id, thing in zip(CATEGORY_IDS, THINGS, strict=True)
    ]
    stuff = [{"id": len(THINGS) + k, "name": ground} for k, ground in enumerate(STUFF)]
    content = {
        "info": {"description": "shapes: generated data", "version": str(GENERATOR_VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "stuff_labels": stuff,
    }
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f"{path} could not be written")


def _annotate(thing: Thing) -> dict[str, Any]:
    """Return a thing's annotation without ids: a tight box around the visible pixels, and their number as the area."""
    return {
        "category_id": CATEGORY_IDS[thing.label],
        "bbox": list(cv2.boundingRect(thing.visible)),
        "area": int(np.count_nonzero(thing.visible)),
        "iscrowd": int(thing.crowd),
        "segmentation": _run_lengths(thing.visible) if thing.crowd else _outline(thing.visible),
    }


def _outline(mask: np.ndarray) -> list[list[float]] | dict[str, Any]:
    """Return polygons if they reproduce the mask [h, w] exactly; otherwise, for example for holes, run lengths."""
    left, top, width, height = cv2.boundingRect(mask)
    part = mask[top : top + height, left : left + width]
    # Contours pass through the centres of border pixels, which are closer to the true border in an enlarged mask.
    large = cv2.resize(part, None, fx=CONTOUR_SCALE, fy=CONTOUR_SCALE, interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return _run_lengths(mask)
    polygons = [((contour.reshape(-1, 2) + 0.5) / CONTOUR_SCALE + (left, top)).ravel().tolist() for contour in contours]
    drawn = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, *mask.shape)))
    return polygons if np.array_equal(drawn, mask) else _run_lengths(mask)


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded = mask_utils.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}
