"""The settings that a search varies: Hydra's `interval`, `range` and choices as distributions of optuna."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from htc.config.compose import with_full_key
from htc.config.schema import Config
from htc.errors import UserError
from htc.launch.sweep import choices, parameter_text, parse

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EXAMPLE = "'schedule.learning_rate=tag(log,interval(0.005,0.08))'"


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies, and what is the same in all of its runs."""

    distributions: dict[str, BaseDistribution]
    """Distributions by key or group."""
    texts: dict[str, str]
    """The same as the user wrote them."""
    fixed: list[str]
    """Overrides of all runs."""

    @classmethod
    def of(cls, params: Mapping[str, Any], arguments: Sequence[str]) -> SearchSpace:
        """Read the space from parameters of a file and arguments of the command line, which take precedence.

        Raises UserError where nothing varies, or a value cannot be varied so.
        """
        texts = [with_full_key(f"{key}={parameter_text(key, value)}") for key, value in params.items()]
        by_key = {parse(text).get_key_element(): text for text in [*texts, *arguments]}
        distributions, varied, fixed = {}, {}, []
        for text in by_key.values():
            override = parse(text)
            if override.is_sweep_override():
                key = override.get_key_element()
                distributions[key] = distribution(override, text)
                varied[key] = text.partition("=")[2]
            else:
                fixed.append(text)
        if not distributions:
            raise UserError(f"hydra/sweeper=optuna has nothing to search: give a key an interval, as in {EXAMPLE}.")
        return cls(distributions, varied, fixed)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial with these values by key: those of all runs come first."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.distributions)]

    def choices(self) -> dict[str, list[str]]:
        """Return the choices of each key that has some."""
        from optuna.distributions import CategoricalDistribution

        chosen = ((key, each) for key, each in self.distributions.items() if isinstance(each, CategoricalDistribution))
        return {key: [str(choice) for choice in each.choices] for key, each in chosen}

    def any_values(self) -> dict[str, Any]:
        """Return some values of the space."""
        from optuna.distributions import CategoricalDistribution

        values: dict[str, Any] = {}
        for key, each in self.distributions.items():
            values[key] = each.choices[0] if isinstance(each, CategoricalDistribution) else vars(each)["low"]
        return values


def distribution(override: Override, text: str) -> BaseDistribution:
    """Return the distribution of an override with several values.

    `interval(a,b)` is continuous, or whole numbers where the key takes whole numbers; `tag(log,interval(a,b))` is
    logarithmic; `range(a,b,step)` has steps; `a,b` and `glob(...)` are choices. Raises UserError for an impossible one.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    key = override.key_or_group
    log = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            if takes_whole_numbers(key):
                return IntDistribution(int(value.start or 0), int(value.end or 0), log=log)
            return FloatDistribution(float(value.start or 0), float(value.end or 0), log=log)
        if isinstance(value, RangeSweep) and not value.shuffle:
            start, stop, step = value.start or 0, value.stop or 0, value.step
            if takes_whole_numbers(key) or all(isinstance(each, int) for each in (start, stop, step)):
                # Like Python's range, without the end.
                return IntDistribution(int(start), int(start + (stop - start - 1) // step * step), step=int(step))
            return FloatDistribution(float(start), float(stop), step=float(step))
    except ValueError as error:
        raise UserError(f"{text} cannot be searched ({str(error).rstrip('.')}).") from None
    names = [each.partition("=")[2] for each in choices(text)]
    return CategoricalDistribution([name.lower() if name in ("True", "False") else name for name in names])


def takes_whole_numbers(key: str) -> bool:
    """Return whether a key of the configuration is an int."""
    node: Any = Config
    for name in key.split("."):
        hints = get_type_hints(node) if dataclasses.is_dataclass(node) else {}
        if name not in hints:
            return False
        candidates = [each for each in (hints[name], *get_args(hints[name])) if each is not type(None)]
        node = next((each for each in candidates if isinstance(each, type)), None)
    return node is int
