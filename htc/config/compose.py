"""Composition of a run's configuration outside of `htc.run`: from overrides, or from what a run recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.evaluation import eval_file
from htc.config.finalize import finalize
from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import Config, register
from htc.errors import UserError

SHORT_KEYS = {"checkpoint": "checkpoint.file", "continue": "continue_from"}
"""Short forms of keys on the command line. Hydra cannot assign a value to the node `checkpoint`, and `continue` cannot
be the name of a field in Python."""


def with_full_key(override: str) -> str:
    """Return an override with the full form of its key: `checkpoint=FILE` -> `checkpoint.file=FILE`."""
    found = re.match(rf"(\+{{0,2}})({'|'.join(SHORT_KEYS)})=", override)
    return override if found is None else f"{found[1]}{SHORT_KEYS[found[2]]}={override[found.end() :]}"


def composed_config(overrides: list[str]) -> Config:
    """Return the configuration that `python -m htc.run` composes from these arguments.

    Raises UserError for values that are refused, and Hydra's errors for what cannot be composed.
    """
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return finalize(compose("config", list(map(with_full_key, overrides))))


def recorded_config(recorded: Any, overrides: list[str]) -> Config:
    """Return the configuration that a run recorded, with KEY=VALUE overrides; `eval=NAME` applies a file of conf/eval.

    Raises UserError for values of a wrong type, for overrides that cannot be read, and for references in the recorded
    values: runs record plain values, and a file of another user must not read this user's environment.
    """
    refuse_references(recorded)
    merged = OmegaConf.merge(OmegaConf.structured(Config), recorded)
    files = [{"eval": eval_settings(text[5:])} for text in overrides if text.startswith("eval=")]
    plain = [read_override(text) for text in overrides if not text.startswith("eval=")]
    return finalize(OmegaConf.merge(merged, *files, *plain))  # type: ignore[arg-type]


def eval_settings(name: str) -> Any:
    """Return the settings that `eval=NAME` makes below `eval`. Raises UserError where there is no such file."""
    return OmegaConf.merge({"name": name}, OmegaConf.load(eval_file(name)))


def refuse_references(recorded: Any) -> None:
    """Raise UserError where a key or value of a recorded configuration contains `${`."""
    try:
        found = next((text for text in _texts(recorded) if "${" in text), None)
    except RecursionError:
        raise UserError("the recorded configuration is nested too deeply: it is damaged.") from None
    if found is not None:
        raise UserError(
            f"the recorded configuration contains {found!r}, but runs record values and no references: it was not "
            "written by a run, or was changed; replace the reference by its value."
        )


def read_override(override: str) -> DictConfig:
    """Return one KEY=VALUE as a configuration. Raises UserError where the value is not valid YAML."""
    try:
        return OmegaConf.from_dotlist([override])
    except OmegaConfBaseException:
        raise
    except Exception as error:  # noqa: BLE001 - the YAML reader raises many kinds of errors
        reason = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{override} cannot be read ({reason}): close its brackets and quotes.") from None


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in nested lists and dicts, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
