"""COCO instance annotations as a handful of NumPy arrays that worker processes share.

A forked worker that reads a Python object writes its reference count and so copies its page; over an epoch each worker
ends up with its own copy of all annotations. Arrays have one reference count each and stay shared. Spawned workers get
them in shared memory.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils


class Flaw(IntFlag):
    """What is wrong with an annotation and can be repaired."""

    NO_AREA = 1
    OUTSIDE = 2
    NO_OUTLINE = 4
    BOX_CLIPPED = 8
    POLYGON_DROPPED = 16
    OUTLINE_CLIPPED = 32

    @property
    def sentence(self) -> str:
        """What to say of one annotation, after its name."""
        return f"has {FLAW_TEXTS[self][1]}: {FLAW_TEXTS[self][2]}"

    def counted(self, count: int) -> str:
        """What to say of several annotations."""
        return f"annotations with {FLAW_TEXTS[self][1]}: {count}, {FLAW_TEXTS[self][2]}"

    @property
    def kind(self) -> str:
        return FLAW_TEXTS[self][0]


FLAW_TEXTS = {
    Flaw.NO_AREA: ("no area", "no area, or a box that is less than a pixel high or wide", "not used in training"),
    Flaw.OUTSIDE: ("outside", "a box outside of the image", "not used in training"),
    Flaw.NO_OUTLINE: ("no outline", "no outline (polygon of three or more points, or RLE)", "not used in training"),
    Flaw.BOX_CLIPPED: ("box reaches out", "a box that reaches out of the image by more than a pixel", "clipped"),
    Flaw.POLYGON_DROPPED: (
        "polygon too short", "a polygon of fewer than three points or an odd number of coordinates", "left out",
    ),
    Flaw.OUTLINE_CLIPPED: (
        "outline reaches out", "an outline that reaches out of the image by more than its size", "clipped",
    ),
}  # fmt: skip
"""Kind, what the annotation has, and what becomes of it."""
UNUSABLE = Flaw.NO_AREA | Flaw.OUTSIDE | Flaw.NO_OUTLINE


@dataclass(frozen=True, eq=False)
class Annotations:
    """One annotation file: n images by ascending id, m annotations ordered by image and, within one, as in the file.

    The annotations of image i are `first[i]:first[i + 1]`; boxes are xyxy in pixels of the original image, unclipped.
    `htc.data.coco.reader.load_annotations` makes one.
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
    name_bytes: np.ndarray
    """[b] uint8: the images' file names in UTF-8, end to end."""
    name_first: np.ndarray
    """[n + 1] int64: where each file name starts in `name_bytes`."""
    first: np.ndarray
    """[n + 1] int64."""
    ids: np.ndarray
    """[m] int64, the file's own ids of annotations."""
    labels: np.ndarray
    """[m] int64, contiguous."""
    boxes: np.ndarray
    """[m, 4] float64."""
    areas: np.ndarray
    """[m] float64, as annotated."""
    crowd: np.ndarray
    """[m] bool: a region of many objects."""
    flaws: np.ndarray
    """[m] uint8, of Flaw."""
    usable: np.ndarray
    """[m] bool: neither crowd nor degenerate, so an object to learn from."""
    coordinates: np.ndarray
    """[c] float64: x, y, x, y of all polygons. Single precision would move outlines: pycocotools rounds to 0.2 px."""
    coordinate_first: np.ndarray
    """[p + 1] int64: where each polygon starts in `coordinates`."""
    polygons: np.ndarray
    """[m, 2] int64: each annotation's first polygon, and the one after its last."""
    rle_bytes: np.ndarray
    """[r] uint8: compressed run lengths of the annotations that are no polygons."""
    rle_ranges: np.ndarray
    """[m, 2] int64: where each annotation's run lengths begin and end in `rle_bytes`."""

    def __len__(self) -> int:
        """Images, annotated or not."""
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        """Move the arrays into shared memory and hand on where they are, so that spawned workers have no copies."""
        import torch

        state: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                tensor = torch.from_numpy(value)
                if not tensor.is_shared():
                    tensor = tensor.clone().share_memory_()
                    object.__setattr__(self, field.name, tensor.numpy())
                value = tensor
            state[field.name] = value
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value.numpy() if hasattr(value, "numpy") else value)

    def file_name(self, image: int) -> str:
        """An image's file name, relative to the folder of images."""
        return self.name_bytes[self.name_first[image] : self.name_first[image + 1]].tobytes().decode()

    def image_path(self, image: int) -> Path:
        return self.images_dir / self.file_name(image)

    def of_image(self, image: int) -> np.ndarray:
        """Indices of an image's annotations, [k] int64."""
        return np.arange(self.first[image], self.first[image + 1])

    def image_of(self) -> np.ndarray:
        """The image of each annotation, [m] int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def usable_per_image(self) -> np.ndarray:
        """How many objects to learn from each image has, [n] int64."""
        return np.diff(np.concatenate([[0], np.cumsum(self.usable)])[self.first])

    def run_lengths(self, image: int, annotation: int) -> dict[str, Any]:
        """One annotation in pycocotools' run lengths, `size` and `counts`."""
        height, width = int(self.heights[image]), int(self.widths[image])
        start, end = self.polygons[annotation]
        if end > start:
            bounds = self.coordinate_first
            outlines = [self.coordinates[bounds[p] : bounds[p + 1]] for p in range(start, end)]
            merged: dict[str, Any] = mask_utils.merge(mask_utils.frPyObjects(outlines, height, width))
            return merged
        start, end = self.rle_ranges[annotation]
        if end > start:
            return {"size": [height, width], "counts": self.rle_bytes[start:end].tobytes()}
        empty: dict[str, Any] = mask_utils.encode(np.zeros((height, width), np.uint8, order="F"))
        return empty

    def mask(self, image: int, annotation: int) -> np.ndarray:
        """Rasterise one annotation as pycocotools' `annToMask` does: [h, w] uint8 of 0 and 1, in Fortran order."""
        mask: np.ndarray = mask_utils.decode(self.run_lengths(image, annotation))
        return mask

    def flaw_counts(self) -> dict[Flaw, int]:
        """How many annotations have each flaw, crowds included; flaws that none has are left out."""
        counts = {flaw: int(np.count_nonzero(self.flaws & flaw)) for flaw in Flaw}
        return {flaw: count for flaw, count in counts.items() if count}
