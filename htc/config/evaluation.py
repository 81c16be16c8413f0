"""The settings of an evaluation, and the name under which its results are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from htc.config.folders import config_folders, group_options
from htc.config.schema import Affects, Config, EvalConfig
from htc.config.signature import affected, flatten, hash_of, identity, to_plain, with_defaults
from htc.errors import UserError, nearest

WEIGHTS_KEYS = ("backbone.weights", "checkpoint.file", "checkpoint.partial")
DATA_KEYS = ("data.val.images", "data.val.annotations", "data.val.limit", "data.shapes.val_images")
"""The data of an evaluation. They are in the name only if they are others than those of the run's own evaluations."""
UNUSED_KEYS = ("eval.name", "eval.engine", "data.val.stuff")
"""Keys that do not change the results of an evaluation."""


def evaluation_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that only evaluation uses, by dotted key, without the name."""
    settings = with_defaults(plain)
    return {
        key: value for key, value in settings.items() if affected(key) is Affects.evaluation and key not in UNUSED_KEYS
    }


def evaluated_data(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that name the data of an evaluation, as run.json holds them."""
    settings = evaluation_settings(plain)
    return {key: settings[key] for key in DATA_KEYS}


def evaluation_name(config: Config, data: Mapping[str, Any] | None = None) -> str:
    """Return the name of an evaluation's folder: `eval.name`, and a hash where other settings than its file's are used.

    Args:
        config: configuration with derived values filled in.
        data: the data of the run's own evaluation, as `evaluated_data` returns them; None for a new run. An evaluation
            on other data has a hash in its name.
    """
    plain = to_plain(config)
    usual = {
        **evaluation_settings({}),
        **{f"eval.{key}": value for key, value in _named_settings(config.eval.name).items()},
        **(evaluated_data(plain) if data is None else data),
    }
    return _name(config, _differences(usual, evaluation_settings(plain)))


def reevaluation_name(config: Config, recorded: Mapping[str, Any]) -> str:
    """Return the name of an evaluation whose settings may differ from those of the training, such as the image size.

    Args:
        config: configuration of the evaluation.
        recorded: the configuration that the run recorded.
    """
    plain = to_plain(config)
    base = evaluation_name(config, evaluated_data(recorded))
    changed = _differences(identity(recorded), identity(plain))
    # The weights are those of the run, and the same data may be in another folder.
    changed = {key: value for key, value in changed.items() if key not in ("data.root", *WEIGHTS_KEYS)}
    return f"{base}-{hash_of(changed)}" if changed else base


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `after` that differ from those of `before`; a missing key counts as null."""
    return {key: after.get(key) for key in sorted({*before, *after}) if before.get(key) != after.get(key)}


def _name(config: Config, differences: Mapping[str, Any]) -> str:
    return f"{config.eval.name}-{hash_of(differences)}" if differences else config.eval.name


def eval_file(name: str) -> Path:
    """Return the file of the settings `eval=NAME`. Raises UserError where there is none."""
    for folder in config_folders():
        path = folder / "eval" / f"{name}.yaml"
        if path.is_file():
            return path
    options = group_options("eval")
    raise UserError(f"eval={name} is not one of {', '.join(options)}{nearest(name, options)}.")


@cache
def _named_settings(name: str) -> dict[str, Any]:
    """Return the settings below `eval` of a file of conf/eval; without such a file, the schema's."""
    defaults = _schema_defaults()
    try:
        content = yaml.safe_load(eval_file(name).read_text(encoding="utf-8")) or {}
    except (UserError, OSError, yaml.YAMLError):
        return defaults
    values = {key: value for key, value in flatten(content).items() if key in defaults}
    return {**defaults, **values}


def _schema_defaults() -> dict[str, Any]:
    """Return the defaults below `eval` as plain values, without the keys that change no result."""
    plain = {key: getattr(value, "value", value) for key, value in asdict(EvalConfig()).items()}
    return {key: value for key, value in plain.items() if f"eval.{key}" not in UNUSED_KEYS}
