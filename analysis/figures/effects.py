"""The effects in a factorial sweep: main effects, interactions and shares, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.factorial import Factorial
from analysis.figures.style import COLORS, add_legend, panels, paper_style, wrap
from analysis.statistics.intervals import Interval, is_significant
from analysis.study_render import metric_words
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"main effect": "main effects", "interaction": "interactions", "share": "Shapley shares"}
"""Kinds of effects, in the order in which they are shown, with the titles of their panels."""
MARKERS = {"main effect": "o", "interaction": "s", "share": "D"}
MOST = 40
"""Most effects of a figure; of more, those of the highest order are left out."""


def effects_figure(factorial: Factorial, width: int = 1) -> Figure:
    """Return the effects of a factorial sweep on AP.

    The thick bar is the interval on new images, and the thin one that of the methods trained anew; the latter
    needs several seeds. A black mark says that its p-value, adjusted for the number of effects, is below 0.05.

    Args:
        factorial: the effects, as `analysis.factorial.build_factorial` returns them.
        width: 1 for one column of a two-column paper, where the panels stand below each other; 2 for both.

    Raises:
        UserError: where there are no effects.
    """
    from matplotlib.lines import Line2D

    if not factorial.effects:
        raise UserError(
            "this sweep has no effects: its rows must be all combinations of settings with two values each."
        )
    kinds = [kind for kind in TITLES if any(effect.kind == kind for effect in factorial.effects)]
    # Effects are sorted by their order, so those that are left out are interactions of many settings.
    shown = {kind: [each for each in factorial.effects if each.kind == kind][:MOST] for kind in kinds}
    inches = 1.15 if width == 1 else 1.05
    labels = {kind: [_words(each.name, inches) for each in shown[kind]] for kind in kinds}
    lines = {kind: 1 + max(words.count("\n") for words in labels[kind]) for kind in kinds}
    heights = [0.45 + len(labels[kind]) * (0.09 + 0.125 * lines[kind]) for kind in kinds]
    with paper_style():
        if width == 1:
            figure, axes = panels(width, len(kinds), 1, sum(heights) / len(kinds), height_ratios=heights, sharex=True)
        else:
            figure, axes = panels(width, 1, len(kinds), max(heights) + 0.25, sharex=True)
        for axis, kind in zip(axes, kinds, strict=True):
            for row, effect in enumerate(shown[kind]):
                found = effect.comparison
                color = COLORS[list(TITLES).index(kind)]
                _bar(axis, row, found.on_images, 3.2, color)
                _bar(axis, row, found.anew, 0.9, "black")
                is_sure = is_significant(effect.p_value)
                axis.plot(
                    found.difference, row, marker=MARKERS[kind], markersize=4.5, markeredgecolor="black", zorder=3,
                    markerfacecolor="black" if is_sure else color, linestyle="none",
                )  # fmt: skip
            axis.axvline(0, color="black", linewidth=0.6)
            axis.set_yticks(range(len(shown[kind])), labels[kind])
            axis.set_ylim(len(shown[kind]) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.set_title(TITLES[kind])
            axis.margins(x=0.06)
            axis.locator_params(axis="x", nbins=5)
        words = f"difference in {metric_words(factorial.study.metric)} (points)"
        for axis in axes if width == 2 else axes[-1:]:
            axis.set_xlabel(wrap(words, 1.6 if width == 2 else 3.0))
        handles = [Line2D([], [], color=COLORS[0], linewidth=3.2)]
        legend = ["new images"]
        if any(effect.comparison.anew is not None for effect in factorial.effects):
            handles += [
                Line2D([], [], color="black", linewidth=0.9),
                Line2D(
                    [], [], marker="o", markersize=4.5, markerfacecolor="black", markeredgecolor="black", linestyle=""
                ),
            ]
            legend += ["trained anew", "p < 0.05 (Holm)"]
        add_legend(figure, handles, legend)
    return figure


def _words(name: str, inches: float) -> str:
    """Return the name of an effect; an interaction that is too long for one line has a line for each setting."""
    words = [wrap(each, inches) for each in name.split(" × ")]
    return one if "\n" not in (one := wrap(name, inches)) else " ×\n".join(words)


def _bar(axis: Axes, row: int, interval: Interval | None, linewidth: float, color: str) -> None:
    if interval is not None:
        axis.plot([interval.low, interval.high], [row, row], color=color, linewidth=linewidth, solid_capstyle="butt")
