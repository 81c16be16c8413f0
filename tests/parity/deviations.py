"""Table of the largest deviation of each item and variant, from the reports of tests in all processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

PROPERTY = "deviation from the reference"
Record = tuple[str, str, float]
"""Variant, item, deviation."""


def table(records: Iterable[Record]) -> str:
    """Return the largest deviations as a Markdown table, with one row per item and one column per variant."""
    # By item, then by variant.
    largest: dict[str, dict[str, float]] = defaultdict(dict)
    for variant, item, deviation in records:
        largest[item][variant] = max(deviation, largest[item].get(variant, 0.0))
    variants = sorted({variant for values in largest.values() for variant in values})
    lines = ["| " + " | ".join(["", *variants]) + " |", "|---|" + "---|" * len(variants)]
    for item, values in largest.items():
        cells = [f"{values[variant]:.1g}" if variant in values else "–" for variant in variants]
        lines.append("| " + " | ".join([item, *cells]) + " |")
    return "\n".join(lines)
