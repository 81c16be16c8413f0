"""AP against the IoU threshold, which shows whether a gain comes from finding more or from tighter outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.curves import draw_curve, legend_line
from analysis.figures.style import add_legend, best, looks, panels, paper_style, wrap
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def thresholds_figure(values: pd.DataFrame, width: int = 1, kind: str = "segm") -> Figure:
    """Return AP against the IoU threshold, and its difference to the first variant, with bands over the seeds.

    Args:
        values: `label`, `seed`, `threshold` and `AP` in percent, as `read_thresholds` returns them.
        width: 1 for one column of a two-column paper, 2 for both.
        kind: `bbox` or `segm`, for the labels of the axes.

    Raises:
        UserError: where there is nothing to draw.
    """
    values = values[values["AP"].notna()]
    if values.empty:
        raise UserError("no variant has an AP by IoU threshold.")
    labels = list(dict.fromkeys(values["label"]))
    means = values.groupby("label")["AP"].mean()
    named = best({str(label): float(mean) for label, mean in means.items()}, labels)
    look = looks(labels, named)
    curves = values.groupby(["label", "threshold"])["AP"].agg(["mean", "min", "max"])
    base = curves.loc[labels[0], "mean"]
    metric = "box AP" if kind == "bbox" else "mask AP"
    several = len(labels) > 1
    with paper_style():
        shape = (1, 1) if not several else (2, 1) if width == 1 else (1, 2)
        figure, axes = panels(width, *shape, 1.6 if width == 1 else 2.1, sharex=True)
        for label in sorted(labels, key=lambda each: each in named):
            of_label = curves.loc[label]
            x = of_label.index.to_numpy()
            mean, low, high = of_label.to_numpy().T
            place = named.index(label) if label in named else 0
            draw_curve(axes[0], (x, mean, low, high), look[label], place)
            if several:
                shift = base.reindex(of_label.index).to_numpy()
                draw_curve(axes[1], (x, mean - shift, low - shift, high - shift), look[label], place)
        axes[0].set_ylabel(f"{metric} (%)")
        axes[0].set_ylim(bottom=0)
        if several:
            axes[1].set_ylabel(wrap(f"difference to ‘{labels[0]}’ (points)", 1.4))
        for axis in axes if width == 2 else axes[-1:]:
            axis.set_xlabel("IoU threshold")
        add_legend(figure, [legend_line(look[label]) for label in named], named, len(labels) - len(named))
    return figure
