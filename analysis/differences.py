"""What rows differ in beyond the words that their columns show."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import cache
from typing import Any

import yaml

from analysis.runs import flatten
from analysis.table_rows import ADDED_SWITCHES, IDEAS, Row
from htc.config.finalize import stage_defaults
from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import Config
from htc.config.signature import to_plain

LONGEST_CASCADE = 16
"""More than any network has: the file of a run may be damaged."""
METHOD_FILES = CONFIG_FOLDER / "model"
# Keys of the settings that a row's method, backbone and schedule already say.
METHOD_KEYS = frozenset(
    {
        "model.name",
        "model.num_stages",
        "model.semantic_fusion",
        *(f"model.{switch}" for switch in (*IDEAS, *ADDED_SWITCHES)),
    }
)
LABEL_KEYS = METHOD_KEYS | {
    "model.channels", "backbone.name", "backbone.width", "backbone.norm", "backbone.bn_mode",
    "backbone.deformable_stages", "schedule.epochs", "schedule.iterations", "schedule.milestones",
}  # fmt: skip


@cache
def _method_settings(method: str) -> dict[str, Any]:
    """The settings below `model` of a method as conf/model has it; those of the schema for one that it has not."""
    settings = flatten({"model": to_plain(Config())["model"]})
    path = METHOD_FILES / f"{method}.yaml"
    if path.is_file():
        settings |= flatten({"model": yaml.safe_load(path.read_text(encoding="utf-8"))})
    return settings


def changed(row: Row) -> dict[str, Any]:
    """The settings below `model` that are not the method's own; switches and lengths that follow from them left out."""
    usual = _method_settings(str(row.settings["model.name"]))
    if row.stages is not None and 1 <= row.stages <= LONGEST_CASCADE:
        usual = {**usual, **{f"model.{key}": value for key, value in stage_defaults(row.stages).items()}}
    return {
        key: value
        for key, value in row.settings.items()
        if key.startswith("model.") and key not in METHOD_KEYS and value != usual.get(key)
    }


def name_differences(rows: list[Row], identity: Callable[[Row], Hashable], shown: Collection[str]) -> None:
    """Say in the method's cell what a block's rows differ in, beyond what the settings `shown` say.

    Rows that look alike by `identity` are told apart by every setting. Of a method's own settings nothing is said.
    """
    apart = tell_apart(rows, identity)
    told = [{**{key: value for key, value in row.settings.items() if not key.startswith("model.")}, **changed(row)}
            for row in rows]  # fmt: skip
    keys = sorted({key for settings in told for key in settings} - set(shown))
    varying = [key for key in keys if len({_word(settings.get(key, ...)) for settings in told}) > 1]
    for row, settings in zip(rows, told, strict=True):
        words = [f"{key}={_word(settings[key])}" for key in varying if key in settings]
        words = sorted({*words, *apart.get(id(row), [])})
        if words:
            row.method = f"{row.method} ({', '.join(words)})"


def tell_apart(
    rows: list[Row], identity: Callable[[Row], Hashable], ignore: Iterable[str] = ()
) -> dict[int, list[str]]:
    """For rows that would look alike, the settings that they differ in: {id(row): ['schedule.learning_rate=0.01']}."""
    alike: dict[Hashable, list[Row]] = {}
    for row in rows:
        alike.setdefault(identity(row), []).append(row)
    words = {}
    for group in alike.values():
        keys = sorted({key for row in group for key in row.settings} - set(ignore))
        differing = [key for key in keys if len({_word(row.settings.get(key)) for row in group}) > 1]
        for row in group:
            parts = [f"{key}={_word(row.settings.get(key))}" for key in differing]
            if len({other.images for other in group}) > 1:
                parts.append(f"{row.images} images evaluated")
            if len(group) > 1 and parts:
                words[id(row)] = parts
    return words


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
