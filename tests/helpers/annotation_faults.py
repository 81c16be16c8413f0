"""Changes that make an annotation file faulty, and how the reader responds to each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from htc.data.coco.annotations import Flaw

Content = dict[str, Any]
Change = Callable[[Content], object]


def first(table: str, **values: object) -> Change:
    """Change the first row of a table; `...` removes a key."""

    def change(content: Content) -> None:
        row = content[table][0]
        row |= values
        for key in [key for key, value in values.items() if value is ...]:
            del row[key]

    return change


def duplicate(table: str) -> Change:
    """Append a copy of the first row of a table."""
    return lambda content: content[table].append(dict(content[table][0]))


def rle(size: list[int], counts: object) -> Change:
    """Replace the first annotation's segmentation by an RLE."""
    return first("annotations", segmentation={"size": size, "counts": counts})


def drop(*image_ids: int) -> Change:
    """Remove images and their annotations."""

    def change(content: Content) -> None:
        content["images"] = [row for row in content["images"] if row["id"] not in image_ids]
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in image_ids]

    return change


FAULTS: dict[str, tuple[Change, str]] = {
    "NaN in a box": (first("annotations", bbox=[10, math.nan, 5, 5]), "annotation 1 has the bbox .* not all finite"),
    "infinite area": (first("annotations", area=math.inf), "annotation 1 .* not all finite"),
    "NaN in a polygon": (first("annotations", segmentation=[[1, 1, 9, math.nan, 9, 9]]), "annotation 1 has a polygon"),
    "negative size": (first("annotations", bbox=[10, 10, -5, 5]), "annotation 1 .* must not be negative"),
    "negative area": (first("annotations", area=-1), "annotation 1 .* must not be negative"),
    "corner beyond any number": (first("annotations", bbox=[1e308, 0, 1e308, 1]), "annotation 1 .* not all finite"),
    "unknown category": (first("annotations", category_id=5), "annotation 1 names category 5"),
    "unknown image": (first("annotations", image_id=99), "annotation 1 names image 99"),
    "two images of one id": (duplicate("images"), "2 entries have the image id 40"),
    "two annotations of one id": (duplicate("annotations"), "2 entries have the annotation id 1"),
    "two categories of one id": (duplicate("categories"), "2 entries have the category id 44"),
    "RLE of another size": (rle([80, 60], [0, 4800]), r"annotation 1 has an RLE of size \[80, 60\] in an image of h"),
    "RLE that is too long": (rle([60, 80], [0, 5000]), "annotation 1 has an RLE whose runs do not cover"),
    "RLE that is too short": (rle([60, 80], [100, 100]), "annotation 1 has an RLE whose runs do not cover"),
    "RLE with a negative run": (rle([60, 80], [5000, -200]), "annotation 1 has an RLE with counts"),
    "compressed RLE that breaks off": (rle([60, 80], "P"), "annotation 1 has an RLE whose runs do not cover"),
    "compressed RLE of other letters": (rle([60, 80], "~~ é"), "annotation 1 has an RLE with the counts"),
    "RLE without counts": (first("annotations", segmentation={"size": [60, 80]}), "annotation 1 has a segmentation"),
    "empty RLE": (rle([60, 80], []), "annotation 1 has an RLE whose runs do not cover"),
    "flat polygon": (first("annotations", segmentation=[1, 1, 9, 1, 9, 9]), "annotation 1 has 1 where a polygon"),
    "words in a polygon": (first("annotations", segmentation=[["a"] * 6]), "annotation 1 has 'a' in its polygon"),
    "box of three numbers": (first("annotations", bbox=[1, 2, 3]), r"annotation 1 has the bbox \[1, 2, 3\]"),
    "no box": (first("annotations", bbox=...), "annotation 1 has the bbox None"),
    "no area": (first("annotations", area=...), "annotation 1 has no `area`"),
    "iscrowd in words": (first("annotations", iscrowd="no"), "annotation 1 has the iscrowd 'no'"),
    "no id": (first("annotations", id=...), "annotation number 0 of the list has no `id`"),
    "no image id": (first("annotations", image_id=...), "annotation 1 has no `image_id`"),
    "id in words": (first("annotations", id="seven"), "annotation 'seven' has the id 'seven'"),
    "id beyond 64 bits": (first("annotations", id=1 << 70), "not a whole number of 64 bits"),
    "annotation that is none": (lambda content: content["annotations"].append(5), "number 10 of the list is 5"),
    "image without height": (first("images", height=...), "image 40 has no `height`"),
    "image of no width": (first("images", width=0), "image 40 has the width 0"),
    "image of absurd size": (first("images", height=10**9), "image 40 has the height 1000000000"),
    "image without a name": (first("images", file_name=""), "image 40 has no `file_name`"),
    "path out of the folder": (first("images", file_name="../40.png"), "image 40 has the file_name '../40.png'"),
    "path out by a detour": (first("images", file_name="a/../../40.png"), "leads out of the folder of images"),
    "absolute path": (first("images", file_name="/etc/passwd"), "leads out of the folder of images"),
    "null byte in a name": (first("images", file_name="a\0.png"), "contains characters that are not allowed"),
    "category without a name": (first("categories", name=...), "category 44 has no `name`"),
    "category name that cannot be printed": (first("categories", name="\ud800"), "category 44 has the name"),
    "table that is no list": (lambda content: content.update(images={}), "`images` is not a list"),
}
"""By name: the change, and a pattern of the message that refuses the file."""
REPAIRS: dict[str, tuple[Change, Flaw, bool]] = {
    "zero area": (first("annotations", area=0), Flaw.NO_AREA, False),
    "zero width": (first("annotations", bbox=[5, 5, 0, 9]), Flaw.NO_AREA, False),
    "outside": (first("annotations", bbox=[90, 5, 9, 9]), Flaw.OUTSIDE, False),
    "partly outside": (first("annotations", bbox=[70, 5, 20, 9]), Flaw.BOX_CLIPPED, True),
    "two points": (first("annotations", segmentation=[[1, 1, 5, 5]]), Flaw.NO_OUTLINE, False),
    "one of two polygons": (
        first("annotations", segmentation=[[1, 1], [1, 1, 9, 1, 9, 9]]), Flaw.POLYGON_DROPPED, True,
    ),
    "odd number": (first("annotations", segmentation=[[1, 1, 9, 1, 9, 9, 4]]), Flaw.POLYGON_DROPPED, False),
    "no segmentation": (first("annotations", segmentation=...), Flaw.NO_OUTLINE, False),
    "far point": (first("annotations", segmentation=[[1, 1, 1e12, 1, 9, 9]]), Flaw.OUTLINE_CLIPPED, True),
}  # fmt: skip
"""By name: the change, what is counted, and whether the object is still used in training."""
