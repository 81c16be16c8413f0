"""What the command draws: each figure of a group of variants, from run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.command import MIN_RESAMPLES, read_count
from analysis.factorial import build_factorial
from analysis.figures.categories import categories_figure
from analysis.figures.comparison import predictions_figure
from analysis.figures.components import component_steps, components_figure
from analysis.figures.curves import losses_figure, training_figure
from analysis.figures.effects import effects_figure
from analysis.figures.failures import failures_figure
from analysis.figures.predictions import (
    SHOWN_SCORE,
    Predictions,
    pair_of_runs,
    read_categories,
    read_predictions,
    read_thresholds,
)
from analysis.figures.style import best
from analysis.figures.thresholds import thresholds_figure
from analysis.figures.tradeoffs import cost_figure, speed_figure
from analysis.figures.variants import Group, Variant, read_history
from analysis.runs import read_runs
from analysis.statistics.resampled import KEYS, Resampler
from analysis.study import Study, build_study, table_key
from analysis.study_render import metric_words
from htc.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WIDTHS_OF = {
    "training": 2, "losses": 2, "speed": 1, "cost": 1, "components": 1, "effects": 1, "categories": 1, "thresholds": 1,
    "predictions": 2, "failures": 2,
}  # fmt: skip
"""All figures, with the width that each has unless another is chosen."""
SETS = {"curves": ("training", "losses"), "tradeoffs": ("speed", "cost")}
"""Names for several figures."""


@dataclass(frozen=True)
class Choices:
    """Which figures are drawn, and how."""

    figures: tuple[str, ...] = tuple(WIDTHS_OF)
    width: int | None = None
    """None for the width of WIDTHS_OF."""
    base: str = ""
    """Label of the variant that another one is compared with; empty for the first one."""
    against: str = ""
    """Label of the other one; empty for the last one."""
    metric: str = "segm.AP"
    score: float = SHOWN_SCORE
    resamples: int = 1000

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Choices:
        """Read the choices from arguments by name. Raises UserError for a value that is none."""
        possible = [*WIDTHS_OF, *SETS]
        figures: list[str] = []
        for name in values["figures"].split(",") if values["figures"] else WIDTHS_OF:
            if name not in possible:
                raise UserError(
                    f"figures={values['figures']}: {name} is not one of {', '.join(possible)}{nearest(name, possible)}."
                )
            figures += SETS.get(name, (name,))
        if values["width"] not in ("", "1", "2"):
            raise UserError(f"width={values['width']} must be 1 or 2: the columns of the paper that the figure spans.")
        if values["metric"] not in KEYS:
            raise UserError(
                f"metric={values['metric']} is not one of {', '.join(KEYS)}{nearest(values['metric'], KEYS)}."
            )
        try:
            score = float(values["score"])
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise UserError(f"score={values['score']} must be a number from 0 to 1.")
        resamples = read_count(values, "resamples", MIN_RESAMPLES)
        width = int(values["width"]) if values["width"] else None
        return cls(
            tuple(dict.fromkeys(figures)), width, values["base"], values["against"], values["metric"], score,
            resamples,
        )  # fmt: skip


@dataclass
class Drawing:
    """Draws the figures of one group, and reads what several of them need once."""

    group: Group
    root: Path
    """Folder of runs."""
    choices: Choices
    resampler: Resampler = field(default_factory=Resampler)
    study: Study | None = None
    """The table of the sweep with its runs on resamples, where it is made already."""

    def draw(self, name: str) -> Figure:
        """Return a figure by its name in WIDTHS_OF. Raises UserError, with the reason, where it cannot be drawn."""
        width = self.choices.width or WIDTHS_OF[name]
        variants, metric = self.group.variants, self.choices.metric
        key = table_key(metric) or self.ap_key
        if name in ("training", "losses"):
            return (training_figure if name == "training" else losses_figure)(self.history, width)
        if name in ("speed", "cost"):
            return (speed_figure if name == "speed" else cost_figure)(variants, width, key)
        if name == "components":
            return components_figure(component_steps(variants), width, key)
        if name == "effects":
            return self._effects(width)
        if name == "thresholds":
            values = read_thresholds(self._of_thresholds(), self.resampler, self.kind)
            return thresholds_figure(values, width, self.kind)
        if name == "failures":
            return failures_figure(self.predictions[1], width, score=self.choices.score)
        base, against = self.pair
        if name == "categories":
            differences = read_categories(base, against, self.resampler, self.kind, metric.split(".")[1])
            return categories_figure(differences, base.label, against.label, width, metric_words(metric))
        return predictions_figure(*self.predictions, width, score=self.choices.score)

    @property
    def kind(self) -> str:
        """`bbox` or `segm`."""
        return self.choices.metric.split(".")[0]

    @property
    def ap_key(self) -> str:
        """Key of the AP of boxes, or of masks, among the statistics of a variant."""
        return table_key(f"{self.kind}.AP")

    @cached_property
    def history(self) -> pd.DataFrame:
        return read_history(self.group.variants)

    @cached_property
    def pair(self) -> tuple[Variant, Variant]:
        """The two variants that are compared."""
        variants, choices = self.group.variants, self.choices
        base = self.group.variant(choices.base) if choices.base else variants[0]
        against = self.group.variant(choices.against) if choices.against else variants[-1]
        if base is against:
            raise UserError(f"'{base.label}' is compared with itself: choose two variants with base= and against=.")
        return base, against

    @cached_property
    def predictions(self) -> tuple[Predictions, Predictions]:
        """Predictions of a run of each of the pair; of a single variant, the same twice."""
        if len(self.group.variants) == 1:
            (variant,) = self.group.variants
            only = read_predictions(variant, variant.runs[0], self.resampler, self.kind)
            return only, only
        base, against = self.pair
        first, second = (
            read_predictions(variant, run, self.resampler, self.kind)
            for variant, run in zip((base, against), pair_of_runs(base, against), strict=True)
        )
        return first, second

    def _of_thresholds(self) -> list[Variant]:
        """Return the base first, and the best of many variants: matching takes half a minute per run of COCO."""
        key = self.ap_key
        values = {each.label: each.stats[key].mean for each in self.group.variants if key in each.stats}
        named = set(best(values, [each.label for each in self.group.variants]))
        base = self.group.variant(self.choices.base) if self.choices.base else self.group.variants[0]
        return [base, *(each for each in self.group.variants if each.label in named and each is not base)]

    def _effects(self, width: int) -> Figure:
        if not self.group.sweep:
            raise UserError("effects are those of one sweep: name it, as in sweep=factorial.")
        evaluation = self.group.variants[0].evaluation
        study = self.study or build_study(
            read_runs(self.root, evaluation)[0], self.root, self.group.sweep, metric=self.choices.metric,
            evaluation=evaluation, resampler=self.resampler,
        )  # fmt: skip
        factorial = build_factorial(study)
        if factorial is None:
            raise UserError(
                f"the sweep {self.group.sweep} has no effects: its rows must be all combinations of settings with two "
                "values each, as in sweep=factorial, with their predictions."
            )
        return effects_figure(factorial, width)
