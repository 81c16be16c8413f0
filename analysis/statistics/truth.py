"""The ground truth of an evaluation: the objects on the evaluated images, by category."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks

from htc.coco_truth import repair_ground_truth
from htc.errors import UserError

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of object areas in pixels, bounds included."""
KINDS = ("bbox", "segm")
BOUNDARY = "boundary"
"""A third kind, on request: masks, compared by their boundaries."""
Array = np.ndarray[Any, Any]


@dataclass
class Truth:
    """Objects of the evaluated images."""

    source: Path
    image_ids: list[int]
    """Ids of the evaluated images in ascending order; an image is known by its index here."""
    category_ids: list[int]
    """Ids of the categories in ascending order."""
    category_names: list[str]
    """A name that several categories share is followed by the id, as in results.json."""
    annotations: dict[tuple[int, int], list[dict[str, Any]]] = field(repr=False)
    """Annotations by index of the category and of the image, in the order of the file."""
    sizes: list[tuple[int, int]] = field(repr=False)
    """Height and width of each image."""

    @cached_property
    def image_index(self) -> dict[int, int]:
        return {image: index for index, image in enumerate(self.image_ids)}

    @cached_property
    def category_index(self) -> dict[int, int]:
        return {category: index for index, category in enumerate(self.category_ids)}

    def outlines(self, category: int, image: int, kind: str) -> list[Any]:
        """Return the objects of a category on an image as pycocotools compares them: boxes, or encoded masks."""
        found = self.annotations.get((category, image), [])
        if kind == "bbox":
            return [annotation["bbox"] for annotation in found]
        for annotation in found:
            if "encoded" not in annotation:
                annotation["encoded"] = encode(annotation["segmentation"], *self.sizes[image])
        return [annotation["encoded"] for annotation in found]


def encode(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return polygons or run lengths as pycocotools' compressed run lengths."""
    if isinstance(segmentation, list):
        return masks.merge(masks.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return masks.frPyObjects(segmentation, height, width)
    return segmentation


def read_truth(path: Path, images: int | Sequence[int] | None = None) -> Truth:
    """Read an annotation file in COCO's format.

    Args:
        path: the file.
        images: ids of the evaluated images, or their number: the first ones by id; None for all.

    Raises:
        UserError: where the file cannot be read, or has fewer images.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        repair_ground_truth(content, str(path))
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        categories = sorted((category["id"], category["name"]) for category in content["categories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as COCO annotations ({type(error).__name__}: {error}).") from None
    ids = sorted(sizes)
    chosen = ids if images is None else ids[:images] if isinstance(images, int) else sorted(set(images))
    if isinstance(images, int) and len(chosen) < images:
        raise UserError(
            f"{path} has {len(ids)} images, and {images} were evaluated: it is another file, or was changed."
        )
    index = {image: number for number, image in enumerate(chosen)}
    of_category = {category: number for number, (category, _) in enumerate(categories)}
    annotations: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        image, category = index.get(annotation["image_id"]), of_category.get(annotation["category_id"])
        if image is not None and category is not None:
            annotations[category, image].append(annotation)
    shared = Counter(name for _, name in categories)
    names = [name if shared[name] == 1 else f"{name} ({category})" for category, name in categories]
    return Truth(
        path, chosen, [category for category, _ in categories], names, dict(annotations),
        [sizes[image] for image in chosen],
    )  # fmt: skip
