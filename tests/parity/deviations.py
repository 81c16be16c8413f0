"""The largest deviation of each item and variant, gathered while the tests run."""

from __future__ import annotations

from collections import defaultdict

# Item -> variant -> largest deviation
DEVIATIONS: dict[str, dict[str, float]] = defaultdict(dict)


def record(variant: str, item: str, deviation: float) -> None:
    DEVIATIONS[item][variant] = max(deviation, DEVIATIONS[item].get(variant, 0.0))


def table() -> str:
    """Deviations relative to the largest value, one column a variant, as a Markdown table."""
    variants = sorted({variant for values in DEVIATIONS.values() for variant in values})
    lines = ["| " + " | ".join(["", *variants]) + " |", "|---|" + "---|" * len(variants)]
    for item, values in DEVIATIONS.items():
        cells = [f"{values[variant]:.1g}" if variant in values else "–" for variant in variants]
        lines.append("| " + " | ".join([item, *cells]) + " |")
    return "\n".join(lines)
