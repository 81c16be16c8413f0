"""The signature of a run: a hash of the settings that can change its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from functools import cache
from typing import Any

from htc.config.schema import Config, schema_fields


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


def value_at(plain: Any, key: str) -> Any:
    """Return the value of a dotted key in a plain configuration. Raises KeyError where it is missing."""
    for name in key.split("."):
        plain = plain[name]
    return plain


@cache
def _outside_signature() -> frozenset[str]:
    return frozenset(key for key, item in schema_fields() if not item.metadata.get("in_signature", True))


def in_signature(key: str) -> bool:
    """Return whether the value of a dotted key can change the result of a run."""
    parts = key.split(".")
    return _outside_signature().isdisjoint(".".join(parts[: i + 1]) for i in range(len(parts)))


@cache
def omitted_defaults() -> dict[str, Any]:
    """Return the defaults that are left out of the signature, by dotted key, as plain values."""
    omitted = (pair for pair in schema_fields() if pair[1].metadata.get("omit_default"))
    return {
        key: _plain(item.default if item.default_factory is dataclasses.MISSING else item.default_factory())
        for key, item in omitted
    }


def signature(config: Config) -> str:
    """Return the eight hex digits that identify the result of a run."""
    omitted = omitted_defaults()

    def strip(node: Any, prefix: str) -> Any:
        if not isinstance(node, dict):
            return node
        return {
            name: strip(value, f"{prefix}{name}.")
            for name, value in node.items()
            if in_signature(key := f"{prefix}{name}") and not (key in omitted and value == omitted[key])
        }

    canonical = json.dumps(strip(to_plain(config), ""), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
