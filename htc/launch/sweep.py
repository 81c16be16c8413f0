"""Compose the configurations of a sweep from its rows and parameters: 1,000 of them in seconds.

Hydra takes more than a tenth of a second to compose one configuration. So each combination of groups is composed once,
and plain values (`seed=3`) are set on the typed result, checked by the types of the schema.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.checks import check, check_training
from htc.config.finalize import derive, typed
from htc.config.schema import Config
from htc.errors import UserError

DEFAULT_DATA = "shapes"
"""Choice of the group `data` in conf/config.yaml."""
Compose = Callable[[list[str]], DictConfig]
"""Function that composes the configuration of a run from its overrides."""


@lru_cache(maxsize=100_000)
def parse(override: str) -> Override:
    """Parse one override of the command line. Raises Hydra's exception if it is not valid."""
    return _parser().parse_override(override)


@lru_cache(maxsize=1)
def _parser() -> OverridesParser:
    return OverridesParser.create()


def expand(params: dict[str, Any], rows: dict[str, Any], arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each run: every row with every combination of the parameters and arguments.

    For each key, the arguments take precedence over the row, and the row over the parameters. The label of a row
    becomes the run's `name`, unless one is given. Raises UserError for a row that cannot be read.

    Args:
        params: Values of keys; `0,1` stands for two choices.
        rows: Overrides of each row, by label; see `row_overrides`.
        arguments: Overrides of the command line, possibly with several choices.
    """
    given = {parse(argument).get_key_element(): argument for argument in arguments}
    defaults = {parse(f"{key}={value}").get_key_element(): f"{key}={value}" for key, value in params.items()}
    data = given.get("data") or defaults.get("data") or f"data={DEFAULT_DATA}"
    labelled = {label: row_overrides(label, row, data.split("=", 1)[1]) for label, row in rows.items()} or {"": []}
    expanded: list[list[str]] = []
    for label, overrides in labelled.items():
        of_row = {parse(override).get_key_element(): override for override in overrides}
        merged = {**defaults, **of_row, **given}
        (combinations,) = BasicSweeper.split_arguments([parse(override) for override in merged.values()], None)
        for combination in combinations:
            named = [f"name={row_name(label, combination)}"] if label and "name" not in merged else []
            expanded.append([*combination, *named])
    return expanded


def row_overrides(label: str, row: Any, data: str) -> list[str]:
    """Return the overrides of a row as a list. Raises UserError if the row cannot be read.

    Args:
        label: Label of the row, for error messages.
        row: Text such as `model.mask_flow=false seed=1`, a list of overrides, or a dict with one of these per data set.
        data: Choice of the group `data`, which selects from a dict.
    """
    if isinstance(row, dict):
        if data not in row:
            raise UserError(f"row '{label}' of the sweep has no entry for data={data}, only for {', '.join(row)}.")
        row = row[data]
    if row is None or row == "":
        return []
    parts = row if isinstance(row, list | tuple) else shlex.split(row) if isinstance(row, str) else None
    if parts is None or not all(isinstance(part, str) and "=" in part for part in parts):
        raise UserError(
            f"row '{label}' of the sweep is {row!r}: write overrides as on the command line, such as "
            "model=htc model.mask_flow=false."
        )
    return list(parts)


def row_name(label: str, overrides: Iterable[str]) -> str:
    """Return the name of a run, such as `mask_flow-resnet50-coco-seed1` for the label `+ mask flow`.

    It holds the choices of the groups `backbone` and `data` that the overrides name, and the seed.
    """
    words = re.sub(r"[^\w.=-]+", "_", label).strip("_") or "row"
    values = dict(override.split("=", 1) for override in overrides)
    parts = [values[key] for key in ("backbone", "data") if re.fullmatch(r"[\w.-]+", values.get(key, ""))]
    return "-".join([words, *parts, f"seed{values.get('seed', '0')}"])


class Composer:
    """Composes the configurations of runs, and each combination of groups only once."""

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._bases: dict[tuple[str, ...], Config | None] = {}
        self._schema: DictConfig = OmegaConf.structured(Config)

    def configs(self, rows: Sequence[Sequence[str]]) -> list[Config]:
        """Return the checked configuration of each row. Raises UserError or Hydra's exception if one is invalid."""
        if not rows:
            return []
        constant = set(rows[0]).intersection(*rows[1:])
        return [self._config(row, constant) for row in rows]

    def _config(self, row: Sequence[str], constant: set[str]) -> Config:
        plain = {override: self._plain_value(override) for override in row if override not in constant}
        key = tuple(override for override in row if plain.get(override) is None)
        if key not in self._bases:
            composed = self._compose(list(key))
            # A value to which other values refer cannot be set afterwards.
            has_references = "${" in OmegaConf.to_yaml(composed, resolve=False)
            # A mandatory value that the row sets is still missing here.
            self._bases[key] = None if has_references or OmegaConf.missing_keys(composed) else typed(composed)
        base = self._bases[key]
        if base is None:
            config = typed(self._compose(list(row)))
        else:
            config = copy.deepcopy(base)
            for value in plain.values():
                if value is not None:
                    _assign(config, *value)
        check(config)
        check_training(config)
        derive(config)
        return config

    @lru_cache(maxsize=100_000)  # noqa: B019 - lives as long as a sweep's planning
    def _plain_value(self, override: str) -> tuple[str, Any] | None:
        """Return key and typed value of an override that sets a single value; None for any other override."""
        parsed = parse(override)
        key = parsed.key_or_group
        if override[:1] in "+~" or "@" in override.split("=", 1)[0]:
            return None
        node: Node | None = self._schema
        for name in key.split("."):
            inner = node._get_node(name) if isinstance(node, DictConfig) and not node._is_none() else None
            node = inner if isinstance(inner, Node) else None
        value = parsed.value()
        if node is None or isinstance(node, Container) or isinstance(value, list | dict):
            return None
        if isinstance(value, str) and "${" in value:
            return None
        candidate = copy.deepcopy(node)
        try:
            candidate._set_value(value)
        except OmegaConfBaseException:
            # Composing it in full raises the error that names the key.
            return None
        return key, candidate._value()


def _assign(config: Config, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    *parents, leaf = key.split(".")
    node: Any = config
    for name in parents:
        node = getattr(node, name)
    setattr(node, leaf, value)
