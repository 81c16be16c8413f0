"""The signature of a run: a hash of what can change its trained weights.

Only values that differ from the neutral defaults, those of the schema, are hashed. So a key that is added to the schema
changes no signature, and a default that is spelled out is equal to one that is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from htc.config.paths import normal_path
from htc.config.schema import Affects, Config, PathKind, ShapesConfig, schema_fields, stage_defaults

GENERATED_DATA = "shapes"
"""Value of `data.name` for the built-in data. Their content follows from other keys, wherever their folder is."""
WEIGHTS_BY_NAME = ("imagenet",)
"""Values of `backbone.weights` that are not paths."""


def to_plain(config: Config) -> dict[str, Any]:
    """Return the configuration as nested dicts of plain values, as config.yaml holds it."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    """Return a value with enums replaced by their values, and tuples by lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def flatten(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by dotted key; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def value_at(plain: Any, key: str) -> Any:
    """Return the value of a dotted key in a plain configuration. Raises KeyError where it is missing."""
    for name in key.split("."):
        plain = plain[name]
    return plain


@cache
def _metadata() -> dict[str, Mapping[str, Any]]:
    return {key: item.metadata for key, item in schema_fields()}


@cache
def affected(key: str) -> Affects:
    """Return what a dotted key can change. A key that this version does not know counts as one of training."""
    parts = key.split(".")
    found = (_metadata().get(".".join(parts[: i + 1]), {}).get("affects") for i in range(len(parts)))
    return next((each for each in found if each not in (None, Affects.training)), Affects.training)


@cache
def _neutral() -> dict[str, Any]:
    """Return the schema's defaults by dotted key; null stands for what follows from other keys."""
    plain = to_plain(Config())
    plain["data"]["shapes"] = _plain(dataclasses.asdict(ShapesConfig()))
    return flatten(plain)


def with_defaults(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plain configuration by dotted key, with the defaults of keys that it does not have.

    A configuration that an earlier version recorded lacks the keys that were added since.
    """
    flat = flatten(plain)
    if flat.get("data.shapes", 0) is None:
        del flat["data.shapes"]
    return {**_neutral(), **flat}


def identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a training: by dotted key, the values that differ from the defaults.

    Args:
        plain: a configuration with derived values filled in, as `to_plain` returns it or config.yaml holds it.
    """
    settings = with_defaults(plain)
    defaults = {**_neutral(), **_derived(settings)}
    trained_on = {key: _normal(key, value) for key, value in settings.items() if affected(key) is Affects.training}
    found = {key: value for key, value in trained_on.items() if key not in defaults or value != defaults[key]}
    if settings.get("data.name") == GENERATED_DATA:
        found.pop("data.root", None)
    return found


def _derived(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that null stands for, as far as they are the same for every run with such a network."""
    stages = settings["model.num_stages"]
    derived = {f"model.{key}": value for key, value in stage_defaults(stages).items()} if _is_stages(stages) else {}
    if settings["model.semantic"]:
        derived["model.semantic_fusion"] = "both"
    if settings["checkpoint.file"] is not None:
        derived["backbone.weights"] = None
    return derived


def _is_stages(value: Any) -> bool:
    """Return whether a number of stages is possible: a recorded configuration may be damaged."""
    return isinstance(value, int) and 1 <= value <= 16


def _normal(key: str, value: Any) -> Any:
    kind: PathKind | None = _metadata().get(key, {}).get("path")
    if kind is None or not isinstance(value, str) or value in WEIGHTS_BY_NAME:
        return value
    return normal_path(value, kind)


def hash_of(settings: Mapping[str, Any]) -> str:
    """Return eight hex digits of a hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def signature(config: Config) -> str:
    """Return the eight hex digits that identify the training of a configuration with derived values filled in."""
    return hash_of(identity(to_plain(config)))
