"""The waterfall: what each component adds, from the base to the full model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from analysis.figures.style import COLORS, panels, paper_style, wrap
from analysis.figures.variants import Variant
from analysis.table_rows import IDEAS
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEYS = {f"model.{idea}": f"+ {words}" for idea, words in IDEAS.items()}
"""Keys of the ideas of HTC, in the order in which the paper adds them, with the label of their step."""
DEPENDENT = ("model.semantic_",)
"""Beginnings of keys that mean nothing without their idea."""
MOST = 40
"""Most steps, which fill the height of a page."""


def component_steps(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants that lead from the base to the full model, each with one component more than the one before.

    These are the ideas of HTC in the paper's order, as far as the runs have them and all other settings are equal; else
    all variants in their order, if there are three or more and each changes more settings of the first one than the
    one before. Raises UserError where there is no such series.
    """
    series = max(map(_ideas_in_order, _alike(variants)), key=len, default=[])
    if len(series) > 1:
        return series
    if len(variants) > 2 and _is_cumulative(variants):
        return list(variants)
    raise UserError(
        "these variants are no series in which each has one component more than the one before, as the rows of "
        "sweep=components are."
    )


def components_figure(steps: Sequence[Variant], width: int = 1, metric: str = "mask_AP") -> Figure:
    """Return the waterfall of AP: a bar for what each step adds, and a point with its deviation over the seeds.

    Args:
        steps: the variants from the base to the full model, as `component_steps` returns them.
        width: 1 for one column of a two-column paper, 2 for both.
        metric: `mask_AP` or `box_AP`.

    Raises:
        UserError: where fewer than two steps have the metric.
    """
    known = [step for step in steps if metric in step.stats]
    if len(known) < 2:
        raise UserError(f"fewer than two of these variants have a {metric.replace('_', ' ')}.")
    if len(known) > MOST:
        raise UserError(f"these variants have {len(known)} steps, and a waterfall shows at most {MOST}.")
    stats = [step.stats[metric] for step in known]
    labels = [wrap(label, 1.1 if width == 1 else 2.2) for label in step_labels(known)]
    with paper_style():
        figure, (axis,) = panels(width, 1, 1, 0.55 + 0.3 * len(known) + 0.12 * sum(each.count("\n") for each in labels))
        for row, stat in enumerate(stats):
            if row:
                before = stats[row - 1].mean
                rises = stat.mean >= before
                axis.barh(
                    row, stat.mean - before, left=before, height=0.62, color=COLORS[0] if rises else COLORS[6],
                    hatch=None if rises else "////", edgecolor="white", linewidth=0,
                )  # fmt: skip
                axis.plot([before, before], [row - 1, row + 0.31], color="#717581", linewidth=0.7, zorder=1)
            axis.errorbar(
                [stat.mean], [row], xerr=None if stat.std is None else [stat.std], color="black", marker="o",
                markersize=3, elinewidth=0.8,
            )  # fmt: skip
        axis.set_yticks(range(len(known)), labels)
        axis.set_ylim(len(known) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"{metric.replace('_', ' ')} (%)")
        _write_values(axis, stats)
    return figure


def step_labels(steps: Sequence[Variant]) -> list[str]:
    """Return the labels of the steps: that of the first variant, then what each step adds."""
    labels = [steps[0].label]
    for before, step in pairwise(steps):
        added = [
            words for key, words in KEYS.items() if step.settings.get(key) is True and not before.settings.get(key)
        ]
        labels.append(added[0] if len(added) == 1 and not step.label.startswith("+") else step.label)
    return labels


def _write_values(axis: Any, stats: Sequence[Any]) -> None:
    """Write the value of the base, and the differences, in a column of its own to the right of all bars."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axis.transAxes, axis.transData)
    differences = [step.mean - before.mean for before, step in pairwise(stats)]
    digits = 1 if max(map(abs, differences)) >= 0.1 else 2
    for row, value in enumerate([stats[0].mean, *differences]):
        words = f"{value:+.{digits}f}".replace("-", "−") if row else f"{value:.{digits}f}"
        axis.text(1.02, row, words, transform=place, va="center", ha="left")
    axis.margins(x=0.06)


def _alike(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Group the variants by all settings but the ideas."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        others = {
            key: value for key, value in variant.settings.items() if key not in KEYS and not key.startswith(DEPENDENT)
        }
        groups.setdefault(repr(sorted(others.items())), []).append(variant)
    return list(groups.values())


def _ideas_in_order(variants: Sequence[Variant]) -> list[Variant]:
    """Return the longest series from a variant with the fewest ideas, adding the paper's next idea that has a run."""
    by_ideas = {frozenset(key for key in KEYS if variant.settings.get(key) is True): variant for variant in variants}
    ideas = min(by_ideas, key=len)
    series = [by_ideas[ideas]]
    while following := [ideas | {key} for key in KEYS if key not in ideas and ideas | {key} in by_ideas]:
        ideas = following[0]
        series.append(by_ideas[ideas])
    return series


def _is_cumulative(variants: Sequence[Variant]) -> bool:
    """Return whether each variant changes what the one before changes of the first one, and more."""
    base = variants[0].settings
    changes = [
        {key: repr(value) for key, value in each.settings.items() if repr(value) != repr(base.get(key))}
        for each in variants
    ]
    return all(before.items() < after.items() for before, after in pairwise(changes))
