"""Effects in a sweep over all combinations of settings with two values each, such as sweeps/factorial.yaml.

Each effect is a weighted sum of the means of all rows, so every run serves every effect. A *main effect* is the mean
difference that a setting makes over all combinations of the others; an *interaction* is how much the effect of one
depends on others; a *share* is the Shapley value: the mean over all orders of what a setting adds when it joins the
others (Shapley 1953), so that the shares sum up to the difference between all and none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.statistics.intervals import Comparison, contrast, holm, pooled_variance
from analysis.study import Study, StudyRow, images_of, values_of
from analysis.systems import is_system

NAMES = {
    "model.interleaved": "interleaving", "model.mask_flow": "mask flow", "model.semantic": "semantic branch",
}  # fmt: skip
"""Words for settings."""
MAX_FACTORS = 6
FOLLOWS = ("model.semantic_fusion",)
"""Settings whose value follows from another one."""


@dataclass
class Factor:
    """A setting with two values."""

    key: str
    low: Any
    high: Any

    @property
    def name(self) -> str:
        """The setting in words; of one that is not switched on, with its values."""
        words = NAMES.get(self.key, self.key)
        return words if (self.low, self.high) == (False, True) else f"{words} ({self.high} for {self.low})"


@dataclass
class Effect:
    """An effect of one factor, or an interaction of several."""

    kind: str
    """`main effect`, `interaction` or `share`."""
    name: str
    comparison: Comparison
    """In percent."""
    p_value: float | None = None
    """Of the effect with methods trained anew, adjusted for the number of effects of this kind (Holm)."""


@dataclass
class Factorial:
    """The effects in a sweep."""

    study: Study
    factors: list[Factor]
    effects: list[Effect]
    runs: int


def build_factorial(study: Study) -> Factorial | None:
    """Return the effects in a sweep; None where its rows are not all combinations of settings with two values.

    The rows need their runs on resamples. The variance between seeds is taken to be the same in all rows.
    """
    rows = [row for row in study.rows if row.resampled and not is_system(row)]
    factors = find_factors(rows)
    if not factors:
        return None
    cells = {tuple(row.runs[0].settings.get(factor.key) == factor.high for factor in factors): row for row in rows}
    if len(cells) != 2 ** len(factors) or len(rows) != len(cells) or len({images_of(row) for row in rows}) > 1:
        return None
    levels = list(itertools.product((False, True), repeat=len(factors)))
    ordered = [cells[level] for level in levels]
    values = [values_of(row, study.metric) for row in ordered]
    pooled = pooled_variance([own for own, _ in values])

    def effect(kind: str, name: str, weights: Sequence[float]) -> Effect:
        found = contrast(
            [own for own, _ in values], [resampled for _, resampled in values], weights,
            ordered[0].resampled[0].images, pooled, always_pooled=True,
        )  # fmt: skip
        return Effect(kind, name, found)

    effects = []
    for size in range(1, len(factors) + 1):
        for chosen in itertools.combinations(range(len(factors)), size):
            kind = "main effect" if size == 1 else "interaction"
            name = " × ".join(factors[index].name for index in chosen)
            effects.append(effect(kind, name, effect_weights(levels, chosen)))
    for index, factor in enumerate(factors):
        effects.append(effect("share", factor.name, shapley_weights(levels, index)))
    for kind in ("main effect", "interaction", "share"):
        of_kind = [each for each in effects if each.kind == kind]
        p_values = [each.comparison.anew.p_value for each in of_kind if each.comparison.anew is not None]
        if len(p_values) == len(of_kind):
            for each, p_value in zip(of_kind, holm(p_values), strict=True):
                each.p_value = p_value
    return Factorial(study, factors, effects, sum(len(row.runs) for row in ordered))


def find_factors(rows: Sequence[StudyRow]) -> list[Factor]:
    """Return the settings in which rows differ, if these are several with two values each; else nothing."""
    settings = [row.runs[0].settings for row in rows]
    keys = dict.fromkeys(key for each in settings for key in each if key not in FOLLOWS)
    factors = []
    for key in keys:
        found = list({repr(each.get(key)): each.get(key) for each in settings}.values())
        if len(found) == 1:
            continue
        if len(found) > 2:
            return []
        low, high = found
        if isinstance(low, bool | int | float) and isinstance(high, bool | int | float) and low > high:
            low, high = high, low
        factors.append(Factor(key, low, high))
    return factors if 2 <= len(factors) <= MAX_FACTORS else []


def effect_weights(levels: Sequence[tuple[bool, ...]], chosen: Sequence[int]) -> list[float]:
    """Return the weight of each row in a main effect or an interaction: 1 or -1 over half of the number of rows.

    An interaction is half of the difference between the effects of one factor at the two values of another, so that
    it has the same variance as a main effect.
    """
    signs = [math.prod(1 if level[index] else -1 for index in chosen) for level in levels]
    return [sign / (len(levels) / 2) for sign in signs]


def shapley_weights(levels: Sequence[tuple[bool, ...]], factor: int) -> list[float]:
    """Return the weight of each row in the share of a factor."""
    number = len(levels[0])
    weights = []
    for level in levels:
        others = sum(level) - level[factor]
        share = math.factorial(others) * math.factorial(number - others - 1) / math.factorial(number)
        weights.append(share if level[factor] else -share)
    return weights


def gain(factorial: Factorial) -> float:
    """Return the difference between the row with all factors high and the row with none, in percent."""
    return float(np.sum([each.comparison.difference for each in factorial.effects if each.kind == "share"]))
