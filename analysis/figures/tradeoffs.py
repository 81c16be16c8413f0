"""AP against what it costs: images per second, and the hours of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.figures.style import OTHERS, add_legend, best, looks, panels, paper_style, wrap
from analysis.figures.variants import Variant
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {"device-hours": 1.0, "device-minutes": 60.0, "device-seconds": 3600.0}


def speed_figure(variants: Sequence[Variant], width: int = 1, metric: str = "mask_AP") -> Figure:
    """Return AP against images per second, of the variants that were measured under the same conditions.

    Where conditions differ, the most frequent ones are shown. The axis names them.

    Args:
        variants: variants of one group.
        width: 1 for one column of a two-column paper, 2 for both.
        metric: a key of `analysis.runs.METRICS`.

    Raises:
        UserError: where no variant has fps.
    """
    conditions = Counter(each.runs[0].conditions for each in variants if "fps" in each.stats)
    if not conditions:
        raise UserError(
            "no variant has images per second that were measured under one condition: python -m htc.evaluate measures "
            "them again."
        )
    chosen = conditions.most_common(1)[0][0]
    return _scatter(
        [each for each in variants if "fps" in each.stats and each.runs[0].conditions == chosen],
        variants, "fps", 1.0, f"images per second ({chosen or 'conditions not recorded'})", width, metric,
    )  # fmt: skip


def cost_figure(variants: Sequence[Variant], width: int = 1, metric: str = "mask_AP") -> Figure:
    """Return AP against the time of the training on all devices.

    Args:
        variants: variants of one group.
        width: 1 for one column of a two-column paper, 2 for both.
        metric: a key of `analysis.runs.METRICS`.

    Raises:
        UserError: where no run has recorded how long its training took.
    """
    shown = [each for each in variants if "device_hours" in each.stats]
    if not shown:
        raise UserError("no run has recorded how long its training took.")
    longest = max(each.stats["device_hours"].mean for each in shown)
    unit = "device-hours" if longest >= 1 else "device-minutes" if longest >= 1 / 60 else "device-seconds"
    devices = "; ".join(sorted({each.devices for each in shown if each.devices}))
    return _scatter(
        shown, variants, "device_hours", UNITS[unit], f"training, {unit} ({devices or 'device unknown'})", width, metric
    )


def _scatter(
    shown: Sequence[Variant],
    variants: Sequence[Variant],
    key: str,
    factor: float,
    xlabel: str,
    width: int,
    metric: str,
) -> Figure:
    points = [each for each in shown if metric in each.stats]
    if not points:
        raise UserError(f"no run has a {metric.replace('_', ' ')}.")
    labels = [each.label for each in variants]
    # A variant has the same look in every figure.
    named = best({each.label: each.stats[metric].mean for each in variants if metric in each.stats}, labels)
    look_of = looks(labels, named)
    with paper_style():
        figure, (axis,) = panels(width, 1, 1, 2.3 if width == 1 else 2.6)
        others = [each for each in points if each.label not in named]
        axis.plot(
            [each.stats[key].mean * factor for each in others], [each.stats[metric].mean for each in others],
            color=OTHERS, marker=".", linestyle="none", zorder=1,
        )  # fmt: skip
        handles = []
        points = [each for each in points if each.label in named]
        for variant in points:
            look = look_of[variant.label]
            x, y = variant.stats[key], variant.stats[metric]
            drawn = axis.errorbar(
                [x.mean * factor], [y.mean], xerr=[x.std * factor] if x.std is not None else None,
                yerr=[y.std] if y.std is not None else None, color=look.color, marker=look.marker, markersize=5,
                linestyle="none", elinewidth=0.8,
            )  # fmt: skip
            handles.append(drawn.lines[0])
        axis.set_xlabel(wrap(xlabel, figure.get_figwidth() - 0.5))
        axis.set_ylabel(f"{metric.replace('_', ' ')} (%)")
        axis.margins(0.08)
        add_legend(figure, handles, [variant.label for variant in points], len(others))
    return figure
