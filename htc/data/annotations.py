"""COCO instance annotations as a handful of NumPy arrays.

A forked worker that reads a Python object writes its reference count and so copies its page; over an epoch each worker
ends up with its own copy of all annotations. Arrays have one reference count each and stay shared.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from htc.errors import UserError

SHORTEST_POLYGON = 6
"""Numbers of a polygon with an inside; pycocotools would take four numbers for a box."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """One annotation file: n images by ascending id, m annotations ordered by image and, within one, as in the file.

    The annotations of image i are `first[i]:first[i + 1]`; boxes are xyxy in pixels of the original image, unclipped.
    """

    path: Path
    images_dir: Path
    category_ids: list[int]
    """Ascending; the position is the contiguous label."""
    category_names: list[str]
    image_ids: np.ndarray
    """[n] int64."""
    heights: np.ndarray
    """[n] int64."""
    widths: np.ndarray
    """[n] int64."""
    file_names: np.ndarray
    """[n] str."""
    first: np.ndarray
    """[n + 1] int64."""
    labels: np.ndarray
    """[m] int64, contiguous."""
    boxes: np.ndarray
    """[m, 4] float64."""
    areas: np.ndarray
    """[m] float64, as annotated."""
    crowd: np.ndarray
    """[m] bool: a region of many objects."""
    usable: np.ndarray
    """[m] bool: neither crowd nor degenerate, so an object to learn from."""
    coordinates: np.ndarray
    """[c] float64: x, y, x, y of all polygons. Single precision would move outlines: pycocotools rounds to 0.2 px."""
    coordinate_first: np.ndarray
    """[p + 1] int64: where each polygon starts in `coordinates`."""
    polygon_first: np.ndarray
    """[m + 1] int64: where each annotation's polygons start in `coordinate_first`."""
    rle_bytes: np.ndarray
    """[b] uint8: compressed run lengths of the annotations that are no polygons."""
    rle_first: np.ndarray
    """[m + 1] int64: where each annotation's run lengths start in `rle_bytes`."""

    @classmethod
    def load(cls, path: Path, images_dir: Path) -> Annotations:
        """Read an `instances_*.json`. Raises UserError where it is missing, is not JSON or is not COCO."""
        content = _read_json(path)
        try:
            return _pack(content, path, images_dir)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path} is not in COCO's instances format ({type(error).__name__}: {error}): "
                "give a file with images, annotations and categories as instances_val2017.json has them."
            ) from error

    def __len__(self) -> int:
        """Images, annotated or not."""
        return len(self.image_ids)

    def of_image(self, image: int) -> np.ndarray:
        """Indices of an image's annotations, [k] int64."""
        return np.arange(self.first[image], self.first[image + 1])

    def usable_per_image(self) -> np.ndarray:
        """How many objects to learn from each image has, [n] int64."""
        return np.diff(np.concatenate([[0], np.cumsum(self.usable)])[self.first])

    def mask(self, image: int, annotation: int) -> np.ndarray:
        """Rasterise one annotation as pycocotools' `annToMask` does: [h, w] uint8 of 0 and 1, in Fortran order."""
        height, width = int(self.heights[image]), int(self.widths[image])
        polygons = range(self.polygon_first[annotation], self.polygon_first[annotation + 1])
        if len(polygons) > 0:
            bounds = self.coordinate_first
            outlines = [self.coordinates[bounds[p] : bounds[p + 1]] for p in polygons]
            run_lengths = mask_utils.merge(mask_utils.frPyObjects(outlines, height, width))
        else:
            counts = self.rle_bytes[self.rle_first[annotation] : self.rle_first[annotation + 1]]
            if len(counts) == 0:
                return np.zeros((height, width), np.uint8, order="F")
            run_lengths = {"size": [height, width], "counts": counts.tobytes()}
        mask: np.ndarray = mask_utils.decode(run_lengths)
        return mask


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: check data.root and the data's `annotations` path.")
    try:
        with path.open("rb") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): download or write it again.") from error
    tables: dict[str, Any] = content if isinstance(content, dict) else {}
    missing = [key for key in ("images", "annotations", "categories") if key not in tables]
    if missing:
        raise UserError(f"{path} has no `{missing[0]}`: give a file in COCO's instances format.")
    return tables


def _pack(content: dict[str, Any], path: Path, images_dir: Path) -> Annotations:
    images = sorted(content["images"], key=lambda image: image["id"])
    image_ids = np.array([image["id"] for image in images], np.int64)
    heights = np.array([image["height"] for image in images], np.int64)
    widths = np.array([image["width"] for image in images], np.int64)
    if len(np.unique(image_ids)) != len(image_ids):
        raise UserError(f"{path} holds two images of one id: give each image its own.")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    if len(label_of) != len(categories):
        raise UserError(f"{path} holds two categories of one id: give each category its own.")

    position_of = {int(image_id): position for position, image_id in enumerate(image_ids)}
    annotations = content["annotations"]
    for annotation in annotations:
        if annotation["image_id"] not in position_of:
            raise UserError(
                f"{path}: annotation {annotation['id']} names image {annotation['image_id']}, "
                "which is not among `images`: add the image or remove the annotation."
            )
        if annotation["category_id"] not in label_of:
            raise UserError(
                f"{path}: annotation {annotation['id']} names category {annotation['category_id']}, "
                "which is not among `categories`: add the category or remove the annotation."
            )
    positions = np.array([position_of[annotation["image_id"]] for annotation in annotations], np.int64)
    order = np.argsort(positions, kind="stable")
    annotations = [annotations[i] for i in order]
    positions = positions[order]

    outlines = _Outlines()
    for annotation, position in zip(annotations, positions, strict=True):
        outlines.add(annotation, int(heights[position]), int(widths[position]), path)
    xywh = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    areas = np.array([annotation["area"] for annotation in annotations], np.float64)
    crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool)
    inside_w = np.minimum(boxes[:, 2], widths[positions]) - np.maximum(boxes[:, 0], 0)
    inside_h = np.minimum(boxes[:, 3], heights[positions]) - np.maximum(boxes[:, 1], 0)
    polygon_first = np.frombuffer(outlines.polygon_first, np.int64)
    rle_first = np.frombuffer(outlines.rle_first, np.int64)
    outlined = (np.diff(polygon_first) > 0) | (np.diff(rle_first) > 0)
    proper = (areas > 0) & (xywh[:, 2] >= 1) & (xywh[:, 3] >= 1) & (inside_w > 0) & (inside_h > 0) & outlined
    return Annotations(
        path=path,
        images_dir=images_dir,
        category_ids=[category["id"] for category in categories],
        category_names=[category["name"] for category in categories],
        image_ids=image_ids,
        heights=heights,
        widths=widths,
        file_names=np.array([image["file_name"] for image in images], np.str_),
        first=np.searchsorted(positions, np.arange(len(images) + 1)),
        labels=np.array([label_of[annotation["category_id"]] for annotation in annotations], np.int64),
        boxes=boxes,
        areas=areas,
        crowd=crowd,
        usable=proper & ~crowd,
        coordinates=np.frombuffer(outlines.coordinates, np.float64),
        coordinate_first=np.frombuffer(outlines.coordinate_first, np.int64),
        polygon_first=polygon_first,
        rle_bytes=np.frombuffer(bytes(outlines.rle_bytes), np.uint8),
        rle_first=rle_first,
    )


class _Outlines:
    """Grows the flat arrays of all segmentations."""

    def __init__(self) -> None:
        self.coordinates = array("d")
        self.coordinate_first = array("q", [0])
        self.polygon_first = array("q", [0])
        self.rle_bytes = bytearray()
        self.rle_first = array("q", [0])

    def add(self, annotation: dict[str, Any], height: int, width: int, path: Path) -> None:
        """Append one annotation's polygons or run lengths; neither where it has no outline."""
        segmentation = annotation.get("segmentation") or []
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [height, width]:
                raise UserError(
                    f"{path}: annotation {annotation['id']} has an RLE of size {segmentation['size']} in an image of "
                    f"height {height} and width {width}: make them equal."
                )
            counts = segmentation["counts"]
            if isinstance(counts, list):
                counts = mask_utils.frPyObjects(segmentation, height, width)["counts"]
            self.rle_bytes.extend(counts.encode() if isinstance(counts, str) else counts)
        else:
            for polygon in segmentation:
                if len(polygon) >= SHORTEST_POLYGON and len(polygon) % 2 == 0:
                    self.coordinates.extend(polygon)
                    self.coordinate_first.append(len(self.coordinates))
        self.polygon_first.append(len(self.coordinate_first) - 1)
        self.rle_first.append(len(self.rle_bytes))
