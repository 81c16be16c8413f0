"""Compose the configurations of a sweep from its overrides: 1,000 of them in seconds.

Hydra takes more than a tenth of a second to compose one configuration. So each combination of groups is composed once,
and plain values (`seed=3`) are set on the typed result, checked by the types of the schema.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.checks import check, check_training
from htc.config.finalize import derive, typed
from htc.config.schema import Config
from htc.launch.sweep import parse

Compose = Callable[[list[str]], DictConfig]
"""Function that composes the configuration of a run from its overrides."""


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
            # A group that is no key of the schema, such as `size`, is composed by Hydra.
            is_known = isinstance(node, DictConfig) and not node._is_none() and name in node
            inner = node._get_node(name) if isinstance(node, DictConfig) and is_known else None
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
