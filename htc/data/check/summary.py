"""Summarise a split in a screenful of text."""

from __future__ import annotations

from collections import Counter

import numpy as np

from htc.data.coco.annotations import Annotations

MAX_SIZES = 5
"""Number of image sizes that are listed."""
BAR = 40
"""Length of the longest bar of the histogram, in characters."""
SMALL, MEDIUM = 32**2, 96**2
"""Upper limits of the areas of COCO's small and medium objects, in pixels."""


def summary(annotations: Annotations, formats: Counter[str]) -> str:
    """Return the counts, sizes and category histogram of a split as text.

    Args:
        annotations: Annotations of the split.
        formats: How many image files have each format; empty if the files were not decoded.
    """
    usable, crowd = annotations.usable, annotations.crowd
    per_image = annotations.usable_per_image()
    left_out = int((~usable & ~crowd).sum())
    lines = [
        str(annotations.path),
        f"{len(annotations)} images, {int((per_image > 0).sum())} of them with objects to learn from",
        f"{len(usable)} annotations: {int(usable.sum())} objects, {int(crowd.sum())} crowds, {left_out} not used",
    ]
    if len(annotations):
        lines.append(_sizes(annotations))
    if formats:
        lines.append("files: " + ", ".join(f"{kind} {count}" for kind, count in formats.most_common()))
    if usable.any():
        areas = annotations.areas[usable]
        shares = [(areas < SMALL).mean(), ((areas >= SMALL) & (areas < MEDIUM)).mean(), (areas >= MEDIUM).mean()]
        lines.append(
            f"objects per image: {per_image.min()} to {per_image.max()}, median {np.median(per_image):g}; "
            "small {:.0%}, medium {:.0%}, large {:.0%}".format(*shares)
        )
    return "\n  ".join([*lines, *_histogram(annotations)])


def _sizes(annotations: Annotations) -> str:
    """Return the most frequent image sizes and the range of all sizes."""
    heights, widths = annotations.heights, annotations.widths
    common = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    shown = ", ".join(f"{width} x {height} ({count})" for (width, height), count in common.most_common(MAX_SIZES))
    others = f", {len(common) - MAX_SIZES} others" if len(common) > MAX_SIZES else ""
    return (
        f"sizes, width x height: {shown}{others}; widths {widths.min()} to {widths.max()}, "
        f"heights {heights.min()} to {heights.max()}"
    )


def _histogram(annotations: Annotations) -> list[str]:
    """Return one line per category: its usable objects, the images that contain them, and a bar."""
    count = len(annotations.category_ids)
    labels, images = annotations.labels[annotations.usable], annotations.image_of()[annotations.usable]
    objects = np.bincount(labels, minlength=count)
    pairs = np.unique(np.stack([labels, images], axis=1), axis=0)
    in_images = np.bincount(pairs[:, 0], minlength=count)
    without = int((objects == 0).sum())
    width = max([len(name) for name in annotations.category_names], default=0)
    lines = [f"{count} categories, {without} of them without objects"]
    for label in np.argsort(-objects, kind="stable").tolist():
        bar = "#" * round(BAR * objects[label] / max(objects.max(), 1))
        name = annotations.category_names[label].ljust(width)
        lines.append(
            f"  {annotations.category_ids[label]:>5} {name} {objects[label]:>8} in {in_images[label]:>7} images  {bar}"
        )
    return lines
