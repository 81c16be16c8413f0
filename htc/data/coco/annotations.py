"""COCO instance annotations as a few NumPy arrays that worker processes share.

When a forked worker reads a Python object, it writes the object's reference count and thus copies the memory page; over
an epoch, each worker gets its own copy of all annotations. An array has a single reference count, so its memory stays
shared. Spawned workers get the arrays in shared memory.
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
    """A flaw of an annotation that training repairs."""

    NO_AREA = 1
    OUTSIDE = 2
    NO_OUTLINE = 4
    BOX_CLIPPED = 8
    POLYGON_DROPPED = 16
    OUTLINE_CLIPPED = 32

    @property
    def sentence(self) -> str:
        """Predicate of a sentence about one annotation with this flaw."""
        return f"has {FLAW_TEXTS[self][1]}: {FLAW_TEXTS[self][2]}"

    def counted(self, count: int) -> str:
        """Return the message for `count` annotations with this flaw."""
        return f"annotations with {FLAW_TEXTS[self][1]}: {count}, {FLAW_TEXTS[self][2]}"

    @property
    def kind(self) -> str:
        """A few words that name this flaw."""
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
"""Kind of the flaw, what the annotation has, and what training does with it."""
UNUSABLE = Flaw.NO_AREA | Flaw.OUTSIDE | Flaw.NO_OUTLINE
"""Flaws with which training does not use an annotation."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """The content of one annotation file, as `htc.data.coco.reader.load_annotations` returns it.

    There are n images by ascending id, and m annotations, ordered by image and then as in the file. The annotations of
    image i are `first[i]:first[i + 1]`. Boxes are xyxy in pixels of the original image and are not clipped.
    """

    path: Path
    images_dir: Path
    category_ids: list[int]
    """Ascending; the position of a category id is its contiguous label."""
    category_names: list[str]
    image_ids: np.ndarray
    """[n] int64."""
    heights: np.ndarray
    """[n] int64."""
    widths: np.ndarray
    """[n] int64."""
    name_bytes: np.ndarray
    """[b] uint8: the file names of all images in UTF-8, concatenated."""
    name_first: np.ndarray
    """[n + 1] int64: where each file name starts in `name_bytes`."""
    first: np.ndarray
    """[n + 1] int64: where the annotations of each image start."""
    ids: np.ndarray
    """[m] int64: ids of the annotations in the file."""
    labels: np.ndarray
    """[m] int64, contiguous class indices."""
    boxes: np.ndarray
    """[m, 4] float64."""
    areas: np.ndarray
    """[m] float64: the annotated areas in pixels."""
    crowd: np.ndarray
    """[m] bool: True for a crowd, a region of many objects."""
    flaws: np.ndarray
    """[m] uint8: flags of `Flaw`."""
    usable: np.ndarray
    """[m] bool: True for objects to train on, which are neither crowds nor degenerate."""
    coordinates: np.ndarray
    """[c] float64: x, y, x, y, ... of all polygons.

    Single precision could change masks, because pycocotools rounds to 0.2 px.
    """
    coordinate_first: np.ndarray
    """[p + 1] int64: where each polygon starts in `coordinates`."""
    polygons: np.ndarray
    """[m, 2] int64: indices of each annotation's first polygon and of the one after its last."""
    rle_bytes: np.ndarray
    """[r] uint8: compressed run lengths of the annotations that have an RLE, concatenated."""
    rle_ranges: np.ndarray
    """[m, 2] int64: where each annotation's run lengths begin and end in `rle_bytes`."""

    def __len__(self) -> int:
        """Return the number of images, including those without annotations."""
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        """Move the arrays into shared memory and pickle references to them, so that spawned workers have no copies."""
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
        """Return an image's file name, relative to the folder of images."""
        return self.name_bytes[self.name_first[image] : self.name_first[image + 1]].tobytes().decode()

    def image_path(self, image: int) -> Path:
        return self.images_dir / self.file_name(image)

    def of_image(self, image: int) -> np.ndarray:
        """Return the indices of an image's annotations, [k] int64."""
        return np.arange(self.first[image], self.first[image + 1])

    def image_of(self) -> np.ndarray:
        """Return the position of each annotation's image, [m] int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def usable_per_image(self) -> np.ndarray:
        """Return the number of usable objects of each image, [n] int64."""
        return np.diff(np.concatenate([[0], np.cumsum(self.usable)])[self.first])

    def run_lengths(self, image: int, annotation: int) -> dict[str, Any]:
        """Return one annotation as pycocotools' RLE, a dict of `size` and `counts`."""
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
        """Rasterise one annotation as pycocotools' `annToMask` does, to [h, w] uint8, 0 or 1, in Fortran order."""
        mask: np.ndarray = mask_utils.decode(self.run_lengths(image, annotation))
        return mask

    def flaw_counts(self) -> dict[Flaw, int]:
        """Return how many annotations, including crowds, have each flaw; flaws that do not occur are left out."""
        counts = {flaw: int(np.count_nonzero(self.flaws & flaw)) for flaw in Flaw}
        return {flaw: count for flaw, count in counts.items() if count}
