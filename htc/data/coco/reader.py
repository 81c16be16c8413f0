"""Read an `instances_*.json` into `Annotations` and report every fault in it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from htc.data.coco.annotations import UNUSABLE, Annotations, Flaw
from htc.data.coco.json_stream import read_tables
from htc.data.coco.problems import Problem, fault, refuse
from htc.data.coco.rle import valid_run_lengths
from htc.data.coco.rows import Categories, Images, Objects

TOLERANCE = 1.0
"""Pixels by which a box may exceed its image without being counted; boxes of COCO do, because of rounding."""


def load_annotations(path: Path, images_dir: Path) -> Annotations:
    """Read an annotation file. Raises UserError if it is missing, is not in COCO format, or has a fault."""
    annotations, problems = read_annotations(path, images_dir)
    refuse(problems)
    return annotations


def read_annotations(path: Path, images_dir: Path) -> tuple[Annotations, list[Problem]]:
    """Read an annotation file and return its valid rows and all faults.

    Flaws that training repairs (`Annotations.flaws`) are not faults. Raises UserError if the tables cannot be read.
    """
    problems: list[Problem] = []
    images, categories = Images(str(path), problems), Categories(str(path), problems)
    objects = Objects(str(path), problems)
    add = {"images": images.add, "annotations": objects.add, "categories": categories.add}
    for name, row in read_tables(path, tuple(add)):
        add[name](row)
    return _Packing(path, problems, images, categories, objects).pack(images_dir), problems


class _Packing:
    """Joins the three tables into `Annotations`; drops rows with a fault and lists the faults."""

    def __init__(
        self, path: Path, problems: list[Problem], images: Images, categories: Categories, objects: Objects
    ) -> None:
        self.path, self.problems = path, problems
        self.images, self.categories, self.objects = images, categories, objects
        self.image_numbers = _table(images.numbers, 3)
        self.object_numbers = _table(objects.numbers, 3)

    def pack(self, images_dir: Path) -> Annotations:
        image_ids, image_rows = self._unique("image", self.image_numbers[:, 0])
        names, name_first = self._names(image_rows)
        heights, widths = self.image_numbers[image_rows, 1], self.image_numbers[image_rows, 2]
        categories = np.array([category_id for category_id, _ in self.categories.rows], np.int64)
        category_ids, category_rows = self._unique("category", categories)

        ids, image_of, category_of = self.object_numbers.T
        valid = np.zeros(len(ids), bool)
        valid[self._unique("annotation", ids)[1]] = True
        positions, known = _find(image_ids, image_of)
        valid &= self._known("image", known, image_of, self.images.refused)
        labels, known = _find(category_ids, category_of)
        valid &= self._known("category", known, category_of, self.categories.refused)
        positions = np.where(valid, positions, 0)
        sizes = np.stack([heights, widths], axis=1)[positions] if len(image_ids) else np.zeros((len(ids), 2), np.int64)
        valid &= self._check_numbers(valid) & self._check_run_lengths(valid, sizes)

        # From here on, the rows are the valid annotations, ordered by image.
        order = np.flatnonzero(valid)
        order = order[np.argsort(positions[order], kind="stable")]
        positions, sizes = positions[order], sizes[order]
        xywh = _table(self.objects.boxes, 4)[order]
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        areas = _flat(self.objects.areas)[order]
        polygon_bounds, rle_bounds = _flat(self.objects.polygon_first), _flat(self.objects.rle_first)
        polygons = np.stack([polygon_bounds[order], polygon_bounds[order + 1]], axis=1)
        rle_ranges = np.stack([rle_bounds[order], rle_bounds[order + 1]], axis=1)
        coordinates, coordinate_first = _flat(self.objects.coordinates), _flat(self.objects.coordinate_first)
        flaws = _flaws(xywh, areas, sizes)
        flaws[(polygons[:, 0] == polygons[:, 1]) & (rle_ranges[:, 0] == rle_ranges[:, 1])] |= np.uint8(Flaw.NO_OUTLINE)
        flaws[_flat(self.objects.shortened)[order] != 0] |= np.uint8(Flaw.POLYGON_DROPPED)
        flaws[_clip_outlines(coordinates, coordinate_first, polygons, sizes)] |= np.uint8(Flaw.OUTLINE_CLIPPED)
        crowd = _flat(self.objects.crowd)[order] != 0
        return Annotations(
            path=self.path,
            images_dir=images_dir,
            category_ids=category_ids.tolist(),
            category_names=[self.categories.rows[row][1] for row in category_rows],
            image_ids=image_ids,
            heights=heights,
            widths=widths,
            name_bytes=names,
            name_first=name_first,
            first=np.searchsorted(positions, np.arange(len(image_ids) + 1)),
            ids=ids[order],
            labels=labels[order],
            boxes=boxes,
            areas=areas,
            crowd=crowd,
            flaws=flaws,
            usable=((flaws & UNUSABLE) == 0) & ~crowd,
            coordinates=coordinates,
            coordinate_first=coordinate_first,
            polygons=polygons,
            rle_bytes=np.frombuffer(self.objects.rle_bytes, np.uint8),
            rle_ranges=rle_ranges,
        )

    def _unique(self, table: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ascending unique ids and the first row of each; add a fault for each duplicate."""
        unique, rows, counts = np.unique(ids, return_index=True, return_counts=True)
        for duplicate, count in zip(unique[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            self._fault(f"duplicate {table} id", f"{count} entries have the {table} id {duplicate}: give each its own")
        return unique, rows

    def _names(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the concatenated file names of the images in `rows`, and where each begins and the last ends."""
        first = _flat(self.images.name_first)
        lengths = np.diff(first)[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(first[rows] - ends[:-1], lengths) + np.arange(ends[-1])
        return np.frombuffer(bytes(self.images.names), np.uint8)[source], ends

    def _known(self, table: str, known: np.ndarray, wanted: np.ndarray, refused: set[object]) -> np.ndarray:
        """Return `known`; add a fault for each annotation whose image or category is neither known nor refused."""
        tables = {"image": "images", "category": "categories"}
        for row in np.flatnonzero(~known).tolist():
            if (value := int(wanted[row])) not in refused:
                self._object_fault(
                    f"unknown {table} id", row, f"names {table} {value}, which is not among `{tables[table]}`"
                )
        return known

    def _check_numbers(self, valid: np.ndarray) -> np.ndarray:
        """Return whether the numbers of each annotation are finite and its sizes are not negative, [m] bool."""
        boxes, areas = _table(self.objects.boxes, 4), _flat(self.objects.areas)
        # The far corners are checked as well, because the sum of two large numbers can be infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(boxes).all(1) & np.isfinite(boxes[:, :2] + boxes[:, 2:]).all(1) & np.isfinite(areas)
        outline_finite = np.ones(len(areas), bool)
        broken = np.flatnonzero(~np.isfinite(_flat(self.objects.coordinates)))
        polygon = np.searchsorted(_flat(self.objects.coordinate_first), broken, side="right") - 1
        outline_finite[np.searchsorted(_flat(self.objects.polygon_first), polygon, side="right") - 1] = False
        positive = ~((boxes[:, 2:] < 0).any(1) | (areas < 0))

        def numbers_of(row: int) -> str:
            return f"has the bbox {_row_values(boxes, row)} and the area {float(areas[row])!r}"

        self._add_faults(
            valid & ~finite, "not finite", lambda row: f"{numbers_of(row)}, which are not all finite numbers"
        )
        self._add_faults(
            valid & finite & ~positive, "negative size", lambda row: f"{numbers_of(row)}: sizes must not be negative"
        )
        self._add_faults(
            valid & ~outline_finite, "not finite", lambda row: "has a polygon with a number that is not finite"
        )
        return finite & positive & outline_finite

    def _check_run_lengths(self, valid: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return whether each annotation's RLE, if any, has its image's size and covers it exactly, [m] bool."""
        bounds = _flat(self.objects.rle_first)
        claimed = _table(self.objects.rle_sizes, 2)
        present = claimed[:, 0] > 0
        fitting = ~present | (claimed == sizes).all(1)
        self._add_faults(
            valid & ~fitting,
            "RLE size",
            lambda row: (
                f"has an RLE of size {_row_values(claimed, row)} in an image of height {sizes[row, 0]} and width "
                f"{sizes[row, 1]}: make them equal"
            ),
        )
        rows = np.flatnonzero(present & fitting & valid)
        ranges = np.stack([bounds[rows], bounds[rows + 1]], axis=1)
        data = np.frombuffer(self.objects.rle_bytes, np.uint8)
        covering = np.ones(len(present), bool)
        covering[rows] = valid_run_lengths(data, ranges, sizes[rows].prod(1))
        self._add_faults(
            ~covering, "RLE", lambda row: "has an RLE whose runs do not cover its image exactly: encode it again"
        )
        return fitting & covering

    def _add_faults(self, wrong: np.ndarray, kind: str, reason: Callable[[int], str]) -> None:
        """Add a fault for each annotation whose row is True in `wrong` [m]."""
        for row in np.flatnonzero(wrong).tolist():
            self._object_fault(kind, row, reason(row))

    def _object_fault(self, kind: str, row: int, reason: str) -> None:
        self._fault(kind, f"annotation {self.object_numbers[row, 0]} {reason}")

    def _fault(self, kind: str, sentence: str) -> None:
        self.problems.append(fault(kind, f"{self.path}: {sentence}"))


def _flaws(xywh: np.ndarray, areas: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the flaws [m] uint8 of boxes [m, 4] in images of `sizes` [m, 2] (height, width)."""
    flaws = np.zeros(len(areas), np.uint8)
    low, high, limit = xywh[:, :2], xywh[:, :2] + xywh[:, 2:], sizes[:, ::-1]
    outside = (np.minimum(high, limit) <= np.maximum(low, 0)).any(1)
    beyond = (low < -TOLERANCE).any(1) | (high > limit + TOLERANCE).any(1)
    flaws[(areas <= 0) | (xywh[:, 2:] < 1).any(1)] |= np.uint8(Flaw.NO_AREA)
    flaws[outside] |= np.uint8(Flaw.OUTSIDE)
    flaws[beyond & ~outside] |= np.uint8(Flaw.BOX_CLIPPED)
    return flaws


def _clip_outlines(
    coordinates: np.ndarray, coordinate_first: np.ndarray, polygons: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Clip polygons in place to at most one image size outside of their image, and return the clipped annotations.

    pycocotools follows outlines pixel by pixel and stores them in 32 bits, so far points cost memory or overflow.
    Points within these bounds stay as they are, because pycocotools clips them itself.

    Args:
        coordinates: [c] float64, as in `Annotations`; changed in place.
        coordinate_first: [p + 1] int64, as in `Annotations`.
        polygons: [m, 2] int64, as in `Annotations`.
        sizes: [m, 2] int64, height and width of each annotation's image.

    Returns:
        [k] int64, indices of the annotations whose outline was clipped.
    """
    if len(coordinates) == 0:
        return np.zeros(0, np.int64)
    starts = coordinate_first[:-1]
    lowest, highest = np.minimum.reduceat(coordinates, starts), np.maximum.reduceat(coordinates, starts)
    counts = polygons[:, 1] - polygons[:, 0]
    owners = np.repeat(np.arange(len(polygons)), counts)
    members = np.repeat(polygons[:, 0] - (np.cumsum(counts) - counts), counts) + np.arange(len(owners))
    # All polygons are compared with the shorter side at once; only the few that exceed it are checked exactly.
    shorter = sizes.min(1)[owners]
    far = (lowest[members] < -shorter) | (highest[members] > 2 * shorter)
    clipped = []
    for owner, polygon in zip(owners[far].tolist(), members[far].tolist(), strict=True):
        points = coordinates[coordinate_first[polygon] : coordinate_first[polygon + 1]].reshape(-1, 2)
        limit = sizes[owner, ::-1]
        inside = np.clip(points, -limit, 2 * limit)
        if not np.array_equal(inside, points):
            points[:] = inside
            clipped.append(owner)
    return np.unique(np.array(clipped, np.int64))


def _find(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of `wanted` [m] in the ascending `ids`, and whether each of them is in `ids`."""
    if len(ids) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    positions = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return positions, ids[positions] == wanted


def _flat(values: array[int] | array[float]) -> np.ndarray:
    """Return a growing array as a NumPy array, without a copy."""
    return np.frombuffer(values, values.typecode) if len(values) else np.zeros(0, values.typecode)


def _table(values: array[int] | array[float], columns: int) -> np.ndarray:
    return _flat(values).reshape(-1, columns)


def _row_values(table: np.ndarray, row: int) -> list[float]:
    values: list[float] = table[row].tolist()
    return values
