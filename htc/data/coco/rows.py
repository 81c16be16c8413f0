"""Check the rows of a COCO annotation file one by one and pack them into flat arrays."""

from __future__ import annotations

import re
from array import array
from typing import Any

from pycocotools import mask as mask_utils

from htc.coco_truth import is_polygon
from htc.data.coco.problems import Problem, fault, short_repr

LARGEST_SIDE = 65_535
"""Longest side of an image in pixels: the limit of JPEG, for which run lengths fit 32 bits."""
PATHS_OUT_OF_FOLDER = re.compile(r"^[\\/]|(?:^|[\\/])\.\.(?:$|[\\/])")
"""Absolute paths, and paths with `..`."""
FORBIDDEN_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and surrogates, which are not allowed in names."""
MALFORMED = (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError)
"""Exceptions that reading a malformed row can raise."""


class RowError(ValueError):
    """A row cannot be used; the message is the predicate of a sentence about the row."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Rows:
    """One table of the file: flat arrays to which rows are added one at a time.

    A row with a fault adds a problem instead. `add` never raises, whatever a row contains.
    """

    table = ""
    """Name of a row of this table in messages."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source, self.problems = source, problems
        self.number = 0

    def add(self, row: Any) -> None:
        try:
            self.append(row)
        except MALFORMED:
            self.undo()
            try:
                self.append(self.checked(row))
            except RowError as error:
                self.undo()
                self.problems.append(fault(error.kind, f"{self.source}: {self.name_of(row)} {error}"))
        self.number += 1

    def name_of(self, row: Any) -> str:
        if isinstance(row, dict) and "id" in row:
            return f"{self.table} {short_repr(row['id'])}"
        return f"{self.table} number {self.number} of the list"

    def append(self, row: Any) -> None:
        """Append a row in COCO's format; raise one of `MALFORMED` for other rows, which may leave the arrays uneven."""
        raise NotImplementedError

    def checked(self, row: Any) -> dict[str, Any]:
        """Return the row in COCO's types; raise RowError if that is impossible."""
        raise NotImplementedError

    def undo(self) -> None:
        """Remove what a failed `append` has added."""
        raise NotImplementedError


class Images(Rows):
    """The table of images: ids, sizes and file names."""

    table = "image"

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.numbers = array("q")
        """Id, height and width of each image."""
        self.names = bytearray()
        self.name_first = array("q", [0])
        self.refused: set[object] = set()
        """Ids of images with a fault, so that their annotations are not reported as faults too."""

    def append(self, row: Any) -> None:
        name, height, width = row["file_name"], row["height"], row["width"]
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise ValueError
        if not name or PATHS_OUT_OF_FOLDER.search(name) or FORBIDDEN_CHARACTERS.search(name):
            raise ValueError
        self.numbers.append(row["id"])
        self.numbers.append(height)
        self.numbers.append(width)
        self.names += name.encode()
        self.name_first.append(len(self.names))

    def checked(self, row: Any) -> dict[str, Any]:
        row = record(row)
        if isinstance(row.get("id"), int):
            self.refused.add(row["id"])
        values = {key: whole_number(row, key) for key in ("id", "height", "width")}
        for key in ("height", "width"):
            if not 0 < values[key] <= LARGEST_SIDE:
                raise RowError("size", f"has the {key} {values[key]}, which is not between 1 and {LARGEST_SIDE} pixels")
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise RowError("file name", "has no `file_name`")
        if PATHS_OUT_OF_FOLDER.search(name):
            raise RowError(
                "file name", f"has the file_name {short_repr(name)}, which leads out of the folder of images: "
                "give paths relative to it, without '..'",
            )  # fmt: skip
        if FORBIDDEN_CHARACTERS.search(name):
            raise RowError(
                "file name", f"has the file_name {short_repr(name)}, which contains characters that are not allowed"
            )
        self.refused.discard(row["id"])
        return {**values, "file_name": name}

    def undo(self) -> None:
        count = len(self.name_first) - 1
        del self.numbers[3 * count :]


class Categories(Rows):
    """The table of categories: ids and names."""

    table = "category"

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.rows: list[tuple[int, str]] = []
        self.refused: set[object] = set()
        """Ids of categories with a fault."""

    def append(self, row: Any) -> None:
        row = self.checked(row)
        self.rows.append((row["id"], row["name"]))

    def checked(self, row: Any) -> dict[str, Any]:
        row = record(row)
        if isinstance(row.get("id"), int):
            self.refused.add(row["id"])
        category_id = whole_number(row, "id")
        if not isinstance(row.get("name"), str):
            raise RowError("category name", "has no `name`")
        if FORBIDDEN_CHARACTERS.search(row["name"]):
            raise RowError(
                "category name",
                f"has the name {short_repr(row['name'])}, which contains characters that are not allowed",
            )
        self.refused.discard(row["id"])
        return {"id": category_id, "name": row["name"]}

    def undo(self) -> None:
        """Do nothing, because `append` checks a row before it adds anything."""


class Objects(Rows):
    """The table of annotations, with their outlines."""

    table = "annotation"

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.numbers = array("q")
        """Id, image id and category id of each annotation."""
        self.boxes = array("d")
        """x, y, width and height of each annotation's box."""
        self.areas = array("d")
        self.crowd = array("b")
        self.coordinates = array("d")
        self.coordinate_first = array("q", [0])
        self.polygon_first = array("q", [0])
        self.shortened = array("b")
        """1 for annotations of which a degenerate polygon was left out."""
        self.rle_bytes = bytearray()
        self.rle_first = array("q", [0])
        self.rle_sizes = array("q")
        """Height and width of each annotation's RLE as given in the file; 0, 0 if it has none."""

    def append(self, row: Any) -> None:
        x, y, width, height = row["bbox"]
        crowd = row.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError
        self.numbers.append(row["id"])
        self.numbers.append(row["image_id"])
        self.numbers.append(row["category_id"])
        self.boxes.append(x)
        self.boxes.append(y)
        self.boxes.append(width)
        self.boxes.append(height)
        self.areas.append(row["area"])
        segmentation = row.get("segmentation")
        shortened, size = False, (0, 0)
        if isinstance(segmentation, list):
            for polygon in segmentation:
                if type(polygon) is not list:
                    raise TypeError
                if is_polygon(polygon):
                    self.coordinates.extend(polygon)
                    self.coordinate_first.append(len(self.coordinates))
                else:
                    shortened = True
        elif segmentation is not None:
            size = self._append_run_lengths(segmentation)
        self.polygon_first.append(len(self.coordinate_first) - 1)
        self.rle_first.append(len(self.rle_bytes))
        self.rle_sizes.extend(size)
        self.shortened.append(shortened)
        # This array is appended to last, because `undo` takes its length as the number of complete rows.
        self.crowd.append(bool(crowd))

    def _append_run_lengths(self, segmentation: dict[str, Any]) -> tuple[int, int]:
        height, width = segmentation["size"]
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise ValueError
        counts = segmentation["counts"]
        if isinstance(counts, list):
            # pycocotools would also accept other numbers and truncate them to 32 bits.
            if not all(type(count) is int and 0 <= count < 1 << 32 for count in counts):
                raise ValueError
            counts = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        else:
            counts = counts.encode("ascii")
        self.rle_bytes += counts
        return height, width

    def checked(self, row: Any) -> dict[str, Any]:
        row = record(row)
        values: dict[str, Any] = {key: whole_number(row, key) for key in ("id", "image_id", "category_id")}
        box = row.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise RowError("box", f"has the bbox {short_repr(box)} instead of four numbers [x, y, width, height]")
        values["bbox"] = [number(value, "bbox") for value in box]
        if "area" not in row:
            raise RowError("area", "has no `area`")
        values["area"] = number(row["area"], "area")
        values["iscrowd"] = row.get("iscrowd", 0)
        if values["iscrowd"] not in (0, 1):
            raise RowError("iscrowd", f"has the iscrowd {short_repr(row['iscrowd'])} instead of 0 or 1")
        segmentation = row.get("segmentation")
        if isinstance(segmentation, list):
            for polygon in segmentation:
                if not isinstance(polygon, list):
                    raise RowError("polygon", f"has {short_repr(polygon)} where a polygon [x, y, x, y, ...] belongs")
            segmentation = [[number(value, "polygon") for value in polygon] for polygon in segmentation]
        elif segmentation is not None:
            segmentation = _run_lengths(segmentation)
        values["segmentation"] = segmentation
        return values

    def undo(self) -> None:
        count = len(self.crowd)
        for values, width in ((self.numbers, 3), (self.boxes, 4), (self.areas, 1), (self.rle_sizes, 2)):
            del values[width * count :]
        del self.shortened[count:]
        del self.polygon_first[count + 1 :]
        del self.coordinate_first[self.polygon_first[-1] + 1 :]
        del self.coordinates[self.coordinate_first[-1] :]
        del self.rle_first[count + 1 :]
        del self.rle_bytes[self.rle_first[-1] :]


def record(row: Any) -> dict[str, Any]:
    """Return the row if it is a JSON object; raise RowError otherwise."""
    if not isinstance(row, dict):
        raise RowError("row", f"is {short_repr(row)} and not an object with an id")
    return row


def whole_number(row: dict[str, Any], key: str) -> int:
    """Return a value of the row as an integer of 64 bits, also if it is given as 7.0; raise RowError otherwise."""
    if key not in row:
        raise RowError(key, f"has no `{key}`")
    value = row[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or abs(value) >= 1 << 63:
        raise RowError(key, f"has the {key} {short_repr(value)}, which is not a whole number of 64 bits")
    return value


def number(value: Any, key: str) -> float:
    """Return the value as a float; raise RowError if it is not a number."""
    if not isinstance(value, int | float):
        raise RowError(key, f"has {short_repr(value)} in its {key}, which is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise RowError(key, f"has {short_repr(value)} in its {key}, which is too large") from error


def _run_lengths(segmentation: Any) -> dict[str, Any]:
    """Return run lengths in COCO's types; raise RowError if that is impossible."""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise RowError("outline", "has a segmentation that is neither a list of polygons nor an RLE of size and counts")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(x, int | float) for x in size):
        raise RowError("RLE", f"has an RLE of size {short_repr(size)} instead of [height, width]")
    if not all(0 < x <= LARGEST_SIDE and x == int(x) for x in size):
        raise RowError("RLE size", f"has an RLE of size {short_repr(size)}, which is not the size of an image")
    if isinstance(counts, list):
        if not all(isinstance(x, int) and 0 <= x < 1 << 32 for x in counts):
            raise RowError("RLE", "has an RLE with counts that are not whole numbers of 0 or more")
        counts = [int(x) for x in counts]
    elif not isinstance(counts, str) or not counts.isascii():
        raise RowError("RLE", f"has an RLE with the counts {short_repr(counts)}, which are neither a list nor a string")
    return {"size": [int(x) for x in size], "counts": counts}
