"""The settings in which the rows of a table differ, beyond what its columns show."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import cache
from typing import Any

import yaml

from analysis.table_rows import ADDED_SWITCHES, IDEAS, Row
from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import Config, stage_defaults
from htc.config.signature import flatten, to_plain

LONGEST_CASCADE = 16
"""More stages than any network has. A config.yaml may be damaged, and a huge number must not fill the memory."""
METHOD_FILES = CONFIG_FOLDER / "model"
METHOD_KEYS = frozenset(
    {
        "model.name",
        "model.num_stages",
        "model.semantic_fusion",
        *(f"model.{switch}" for switch in (*IDEAS, *ADDED_SWITCHES)),
    }
)
"""Keys of the settings that the method of a row, or its switches, fusion and stages, show."""
LABEL_KEYS = METHOD_KEYS | {
    "model.channels", "backbone.name", "backbone.width", "backbone.norm", "backbone.bn_mode",
    "backbone.deformable_stages", "schedule.epochs", "schedule.iterations", "schedule.milestones",
}  # fmt: skip
"""Keys of the settings that the method, backbone and schedule of a row show."""


@cache
def _method_settings(method: str) -> dict[str, Any]:
    """Return the settings below `model` of a method in conf/model; for an unknown method, those of the schema."""
    settings = flatten({"model": to_plain(Config())["model"]})
    path = METHOD_FILES / f"{method}.yaml"
    if path.is_file():
        settings |= flatten({"model": yaml.safe_load(path.read_text(encoding="utf-8"))})
    return settings


def changed_settings(row: Row) -> dict[str, Any]:
    """Return the settings below `model` that differ from the method's defaults.

    The keys of METHOD_KEYS are left out, and so are lists with one entry per stage that have the defaults for the
    row's number of stages.
    """
    defaults = _method_settings(str(row.settings["model.name"]))
    if row.stages is not None and 1 <= row.stages <= LONGEST_CASCADE:
        defaults = {**defaults, **{f"model.{key}": value for key, value in stage_defaults(row.stages).items()}}
    return {
        key: value
        for key, value in row.settings.items()
        if key.startswith("model.") and key not in METHOD_KEYS and value != defaults.get(key)
    }


def name_differences(rows: list[Row], identity: Callable[[Row], Hashable], shown: Collection[str]) -> None:
    """Append to each row's method the settings in which the rows of a block differ, as `HTC (precision=bf16)`.

    A setting below `model` that has the method's default is not named, except for rows that would look alike otherwise:
    these show every setting in which they differ.

    Args:
        rows: the rows of one block.
        identity: what a reader sees of a row; rows with equal values look alike.
        shown: keys of the settings that the columns show already.
    """
    distinguishing = distinguishing_settings(rows, identity)
    nameable = [
        {**{key: value for key, value in row.settings.items() if not key.startswith("model.")}, **changed_settings(row)}
        for row in rows
    ]
    keys = sorted({key for settings in nameable for key in settings} - set(shown))
    varying = [key for key in keys if len({_word(settings.get(key, ...)) for settings in nameable}) > 1]
    for row, settings in zip(rows, nameable, strict=True):
        words = [f"{key}={_word(settings[key])}" for key in varying if key in settings]
        words = sorted({*words, *distinguishing.get(id(row), [])})
        if words:
            row.method = f"{row.method} ({', '.join(words)})"


def distinguishing_settings(
    rows: list[Row], identity: Callable[[Row], Hashable], ignore: Iterable[str] = ()
) -> dict[int, list[str]]:
    """Return, for rows that would look alike, the settings in which they differ.

    Args:
        rows: the rows to compare.
        identity: what a reader sees of a row; rows with equal values look alike.
        ignore: keys of settings that are not compared.

    Returns:
        Settings by the id of the row, such as `{id(row): ["schedule.learning_rate=0.01"]}`; rows that differ from all
        others by their identity are left out.
    """
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
    """Return a value as the table shows it: a string as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
