"""Curves of the training: the mean over the seeds of each variant, with a band from the lowest to the highest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.style import BAND, Mark, add_legend, best, looks, panels, paper_style
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 60
"""Points of a curve: more lines than that are averaged over equal numbers of steps."""
OVERVIEW = {"loss": "total loss", "mask_AP": "mask AP (%)", "lr": "learning rate", "box_AP": "box AP (%)"}
"""Columns of the overview with the labels of their axes."""
TASKS = {"loss_cls": "class", "loss_bbox": "box", "loss_mask": "mask"}
"""Losses of a stage, in the order in which they are shown."""
OTHER_LOSSES = {"loss_rpn_cls": "RPN objectness", "loss_rpn_bbox": "RPN box", "loss_semantic_seg": "semantic"}
Curve = tuple[Any, ...]
"""Steps, mean, lowest and highest value over the seeds."""


def training_figure(history: pd.DataFrame, width: int = 2) -> Figure:
    """Return total loss, learning rate, and validation AP where the training has evaluations, over the steps.

    Args:
        history: lines of metrics.jsonl, as `read_history` returns them.
        width: 1 for one column of a two-column paper, 2 for both.

    Raises:
        UserError: where there is nothing to draw.
    """
    shown = {key: words for key, words in OVERVIEW.items() if _has(history, key) and not _only_final(history, key)}
    return _figure(history, shown, width, "")


def losses_figure(history: pd.DataFrame, width: int = 2) -> Figure:
    """Return each loss over the steps: a panel per task and stage, then RPN and semantic branch.

    Args:
        history: lines of metrics.jsonl, as `read_history` returns them.
        width: 1 for one column of a two-column paper, 2 for both.

    Raises:
        UserError: where there is nothing to draw.
    """
    names = [str(name) for name in history.columns if str(name).startswith("losses.")]
    shown = {name: words for name, words in sorted(map(_loss_words, names), key=_loss_order) if _has(history, name)}
    return _figure(history, shown, width, "loss")


def _has(history: pd.DataFrame, key: str) -> bool:
    return key in history.columns and bool(history[key].notna().any())


def _only_final(history: pd.DataFrame, key: str) -> bool:
    """Return whether each run has at most one value: an evaluation at the end is no curve."""
    return bool(history[history[key].notna()].groupby(["label", "seed"]).size().max() < 2)


def _loss_words(column: str) -> tuple[str, str]:
    """Return the column and its title, such as `mask, stage 1`."""
    name = column.removeprefix("losses.")
    if found := re.fullmatch(r"s(\d+)\.(\w+)", name):
        return column, f"{TASKS.get(found[2], found[2])}, stage {int(found[1]) + 1}"
    return column, OTHER_LOSSES.get(name, name)


def _loss_order(entry: tuple[str, str]) -> tuple[Any, ...]:
    """Sort key: by task, then by stage; losses without a stage last."""
    name = entry[0].removeprefix("losses.")
    stage, _, task = name.rpartition(".")
    order = list(TASKS) if stage else list(OTHER_LOSSES)
    return (not stage, order.index(task) if task in order else len(order), stage, task)


def _figure(history: pd.DataFrame, shown: dict[str, str], width: int, ylabel: str) -> Figure:
    if not shown:
        raise UserError("metrics.jsonl of these runs has no lines of the training: nothing can be drawn.")
    labels = list(dict.fromkeys(history["label"]))
    named = best(_last_ap(history), labels)
    look = looks(labels, named)
    curves = seed_curves(history, list(shown))
    columns = min(len(shown), 2 if width == 1 or not ylabel else 3)
    rows = -(-len(shown) // columns)
    with paper_style():
        figure, axes = panels(width, rows, columns, 1.25 if width == 1 else 1.45, sharex=True)
        for axis, (key, words) in zip(axes, shown.items(), strict=False):
            for label in sorted(labels, key=lambda each: each in named):
                if (curve := curves.get((label, key))) is not None:
                    draw_curve(axis, curve, look[label], named.index(label) if label in named else 0)
            if ylabel:
                axis.set_title(words)
            else:
                axis.set_ylabel(words)
            axis.ticklabel_format(axis="both", scilimits=(-3, 4))
            axis.locator_params(axis="x", nbins=4 if columns > 1 else 6)
            axis.margins(x=0.02)
        for axis in axes[len(shown) :]:
            axis.remove()
        for index in range(len(shown)):
            if index + columns >= len(shown):
                axes[index].set_xlabel("step")
                axes[index].tick_params(labelbottom=True)
            if ylabel and index % columns == 0:
                axes[index].set_ylabel(ylabel)
        add_legend(figure, [legend_line(look[label]) for label in named], named, len(labels) - len(named))
    return figure


def _last_ap(history: pd.DataFrame) -> dict[str, float]:
    """Return the mean over the seeds of the last mask AP of each variant."""
    if "mask_AP" not in history.columns:
        return {}
    known = history[history["mask_AP"].notna()].sort_values("step")
    last = known.groupby(["label", "seed"])["mask_AP"].last()
    return {str(label): float(value) for label, value in last.groupby(level="label").mean().items()}


def seed_curves(history: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, str], Curve]:
    """Return steps, mean, lowest and highest value over the seeds, by variant and column.

    Long curves are averaged over equal numbers of lines, which are averages over the steps since the line before.
    """
    curves: dict[tuple[str, str], Curve] = {}
    for key in keys:
        known = history.loc[history[key].notna(), ["label", "seed", "step", key]]
        steps = known.groupby("label")["step"]
        rank, last = steps.rank(method="dense"), steps.rank(method="dense").groupby(known["label"]).transform("max")
        # Up to POINTS steps, each is a point of its own.
        point = np.where(last > POINTS, np.ceil(rank * POINTS / last), rank)
        of_seed = known.assign(point=point).groupby(["label", "point", "seed"]).agg({"step": "max", key: "mean"})
        of_all = of_seed.groupby(level=["label", "point"]).agg({"step": "max", key: ["mean", "min", "max"]})
        for label, values in of_all.groupby(level="label"):
            curves[str(label), key] = (*values.to_numpy().T,)
    return curves


def draw_curve(axis: Axes, curve: Curve, look: Mark, index: int) -> None:
    """Draw the curve of one variant, with its band where there are several seeds; `index` shifts its marks."""
    x, mean, low, high = curve
    if not look.marker:
        axis.plot(x, mean, color=look.color, linewidth=0.5, zorder=1)
        return
    every = max(len(x) // 5, 1)
    axis.plot(
        x, mean, color=look.color, linestyle=look.line, marker=look.marker, markersize=3,
        # The marks of different curves are at different places.
        markevery=(index * every // 4 % every, every),
    )  # fmt: skip
    if (high > low).any():
        axis.fill_between(x, low, high, color=look.color, alpha=BAND, linewidth=0)


def legend_line(look: Mark) -> Any:
    """Return the entry of a variant in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.color, linestyle=look.line, marker=look.marker, markersize=3)
