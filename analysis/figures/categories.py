"""Differences in AP of two variants by category, with intervals from the image bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.figures.style import COLORS, WIDTHS, add_legend, panels, paper_style, text_width, wrap
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 0.135
"""Height of a line of words in inches."""
PER_PANEL = 40
"""Most categories of a panel, which fill the height of a page."""


def categories_figure(
    differences: pd.DataFrame, first: str, second: str, width: int = 1, metric: str = "mask AP"
) -> Figure:
    """Return how much higher the AP of the second variant is, by category, from the largest gain to the largest loss.

    Where a page has no room for all categories, those with the largest differences are shown, and the axis says so.
    A filled mark says that the interval of this category alone excludes 0; among many categories, some do by chance.

    Args:
        differences: `category`, `difference`, `low` and `high`, as `read_categories` returns them.
        first: label of the variant that the other is compared with.
        second: label of the other variant.
        width: 1 for one column of a two-column paper, 2 for both.
        metric: the metric in words.

    Raises:
        UserError: where there is no category.
    """
    from matplotlib.lines import Line2D

    if differences.empty:
        raise UserError("no category has an AP of both variants.")
    number = len(differences)
    columns = 2 if width == 2 and number > 12 else 1
    shown = differences.loc[differences["difference"].abs().sort_values(ascending=False, kind="stable").index]
    shown = shown.head(PER_PANEL * columns).sort_values("difference", ascending=False, kind="stable")
    rows = -(-len(shown) // columns)
    labels = [wrap(str(name), 1.0 if width == 1 else 1.4) for name in shown["category"]]
    # Inches from the top: a name of several lines takes more room than others.
    heights = [0.035 + LINE * (1 + words.count("\n")) for words in labels]
    beside = max(text_width(line) for words in labels for line in words.split("\n"))
    tallest = max(sum(heights[panel * rows : (panel + 1) * rows]) for panel in range(columns))
    words = f"{metric} of ‘{second}’ minus ‘{first}’ (points)"
    if len(shown) < number:
        words += f"; the {len(shown)} largest differences of {number} categories"
    xlabel = wrap(words, WIDTHS.get(width, WIDTHS[2]) / columns - beside - 0.25)
    with paper_style():
        figure, axes = panels(width, 1, columns, tallest + 0.35 + LINE * (1 + xlabel.count("\n")), sharex=True)
        for panel, axis in enumerate(axes):
            own = slice(panel * rows, (panel + 1) * rows)
            part = shown[["difference", "low", "high"]].iloc[own]
            places = np.cumsum(heights[own]) - np.array(heights[own]) / 2
            for row, (difference, low, high) in zip(places, part.itertuples(index=False, name=None), strict=True):
                # Gains and losses differ in the mark, too, which a reader without color sees.
                color, marker = (COLORS[0], ">") if difference >= 0 else (COLORS[6], "<")
                axis.plot([low, high], [row, row], color=color, linewidth=1.0, zorder=2)
                axis.plot(
                    difference, row, marker=marker, color=color, markersize=4.5, linestyle="none", zorder=3,
                    markerfacecolor=color if low > 0 or high < 0 else "none",
                )  # fmt: skip
            axis.axvline(0, color="black", linewidth=0.6)
            axis.set_yticks(places, labels[own])
            axis.set_ylim(tallest + 0.05, -0.05)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.04)
            axis.locator_params(axis="x", nbins=5)
            axis.set_xlabel(xlabel)
        grey = {"color": COLORS[0], "linewidth": 1.0, "markersize": 4.5}
        handles = [
            Line2D([], [], marker=">", **grey),  # type: ignore[arg-type]
            Line2D([], [], marker=">", markerfacecolor="none", **grey),  # type: ignore[arg-type]
        ]
        add_legend(figure, handles, ["95 % interval (images) excludes 0", "includes 0"])
    return figure
