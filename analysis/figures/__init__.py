"""Figures of runs, for papers, notebooks and pages: `python -m analysis.figures`, or one function per figure.

What a figure shows is read by `read_groups`, `read_history`, `read_thresholds`, `read_categories` and
`read_predictions`; its function returns a `matplotlib.figure.Figure`, and `save_figure` and `svg` write it. matplotlib,
the extra `figures`, is imported only when something is drawn.
"""

from analysis.figures.categories import categories_figure
from analysis.figures.comparison import predictions_figure
from analysis.figures.components import component_steps, components_figure
from analysis.figures.curves import losses_figure, training_figure
from analysis.figures.effects import effects_figure
from analysis.figures.failures import failures_figure
from analysis.figures.output import save_figure, svg
from analysis.figures.predictions import (
    find_failures,
    image_scores,
    pair_of_runs,
    read_categories,
    read_predictions,
    read_thresholds,
)
from analysis.figures.thresholds import thresholds_figure
from analysis.figures.tradeoffs import cost_figure, speed_figure
from analysis.figures.variants import Group, Variant, read_groups, read_history

__all__ = [
    "Group",
    "Variant",
    "categories_figure",
    "component_steps",
    "components_figure",
    "cost_figure",
    "effects_figure",
    "failures_figure",
    "find_failures",
    "image_scores",
    "losses_figure",
    "pair_of_runs",
    "predictions_figure",
    "read_categories",
    "read_groups",
    "read_history",
    "read_predictions",
    "read_thresholds",
    "save_figure",
    "speed_figure",
    "svg",
    "thresholds_figure",
    "training_figure",
]
