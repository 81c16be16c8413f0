"""A small data set in COCO layout, with the peculiarities of real ones: gaps in ids, both kinds of RLE, a crowd."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from htc.config.schema import DataConfig, SplitConfig


@dataclass
class Folder:
    """A hand-made data set of four images and the configuration that reads it."""

    root: Path
    content: dict[str, Any]
    config: DataConfig

    @property
    def file(self) -> Path:
        """The annotation file."""
        return self.root / "annotations.json"

    def write(self) -> None:
        """Write `content` to the annotation file."""
        self.file.write_text(json.dumps(self.content))


def rectangle(height: int, width: int, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """Return a mask [height, width] uint8 that is 1 inside a rectangle, in the memory order of pycocotools.

    Args:
        height: height of the mask in pixels.
        width: width of the mask in pixels.
        x1: first column of the rectangle.
        y1: first row of the rectangle.
        x2: first column to the right of the rectangle.
        y2: first row below the rectangle.
    """
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Return the mask as COCO's compressed RLE."""
    encoded = mask_utils.encode(mask)
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Return the mask as COCO's uncompressed RLE."""
    flat = np.concatenate([[0], mask.ravel(order="F")])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]]))
    return {"size": list(mask.shape), "counts": runs.tolist()}


def hand_made(root: Path) -> Folder:
    """Write the data set below `root`, and return it.

    The ids have gaps and are not in order. Image 3 has polygons, both kinds of RLE and a crowd; image 12 has no usable
    object.
    """
    sizes = {40: (60, 80), 3: (100, 120), 12: (50, 50), 7: (120, 90)}
    (root / "images").mkdir()
    random = np.random.default_rng(0)
    for image_id, size in sizes.items():
        cv2.imwrite(str(root / "images" / f"{image_id}.png"), random.integers(0, 256, (*size, 3), np.uint8))

    def annotation(image_id: int, category_id: int, box: list[float], segmentation: Any, **more: Any) -> dict[str, Any]:
        area = box[2] * box[3]
        return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": segmentation,
                "area": area, "iscrowd": 0, **more}  # fmt: skip

    def outline(x: float, y: float, w: float, h: float) -> list[float]:
        return [x, y, x + w, y, x + w, y + h, x, y + h]

    crowd = rectangle(100, 120, 0, 60, 30, 100)
    annotations = [
        annotation(40, 7, [10, 10, 30, 20], [outline(10, 10, 30, 20)]),
        annotation(3, 44, [10.5, 5, 60, 50], [outline(10.5, 5, 20, 50), outline(50, 5, 20.5, 50)]),
        annotation(3, 2, [70, 40, 20, 30], compressed(rectangle(100, 120, 70, 40, 90, 70))),
        annotation(3, 7, [60, 10, 5, 6], uncompressed(rectangle(100, 120, 60, 10, 65, 16))),
        annotation(3, 2, [0, 60, 30, 40], uncompressed(crowd), iscrowd=1),
        annotation(12, 7, [5, 5, 0.5, 10], [outline(5, 5, 0.5, 10)]),
        annotation(12, 7, [70, 5, 10, 10], [outline(70, 5, 10, 10)]),
        annotation(12, 7, [5, 5, 10, 10], [outline(5, 5, 10, 10)], area=0),
        annotation(12, 7, [5, 5, 10, 10], []),
        annotation(7, 2, [0, 0, 90, 120], [outline(0, 0, 90, 120)]),
    ]
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "height": h, "width": w}
            for image_id, (h, w) in sizes.items()
        ],
        "annotations": [{"id": k + 1, **entry} for k, entry in enumerate(annotations)],
        "categories": [{"id": 44, "name": "bottle"}, {"id": 2, "name": "bicycle"}, {"id": 7, "name": "train"}],
    }
    split = SplitConfig(images="images", annotations="annotations.json", stuff="stuff")
    config = DataConfig(name="mine", root=str(root), train=split, val=split, short_side=150, long_side=200, workers=0)
    made = Folder(root, content, config)
    made.write()
    return made
