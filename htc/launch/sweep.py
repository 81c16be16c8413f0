"""Expand sweeps into the overrides of their runs: every row with every combination of parameters and choices."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf

from htc.config.compose import with_full_key
from htc.config.folders import NO_CHOICES, SWEEPS_FOLDER, SWEEPS_GROUP, config_folders, group_options
from htc.errors import UserError, nearest

DEFAULT_DATA = "shapes"
"""Choice of the group `data` in conf/config.yaml."""
SWEEPS_KEY = f"+{SWEEPS_GROUP}"
"""Override that names sweep files: `+sweep=components` on the command line."""
ROW_KEYS = {"overrides", "launcher"}
"""Keys of a row that is a mapping, and not one of data sets."""


@dataclass(frozen=True)
class SweepRow:
    """One run that a sweep asks for."""

    overrides: list[str]
    """Arguments of `python -m htc.run` that start the run."""
    label: str | None = None
    """Label of the row; None without rows."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """Options of the launcher for this row alone."""
    given: tuple[str, ...] = ()
    """Those overrides that are not the row's own: parameters, and arguments of the command line."""


@dataclass(frozen=True)
class SweepFile:
    """The rows and parameters of one sweep."""

    rows: dict[str, Any]
    params: dict[str, Any]


@lru_cache(maxsize=100_000)
def parse(override: str) -> Override:
    """Parse one override of the command line. Raises Hydra's exception if it is not valid."""
    return _parser().parse_override(override)


@lru_cache(maxsize=1)
def _parser() -> OverridesParser:
    return OverridesParser.create()


def expand_sweeps(
    params: dict[str, Any], rows: dict[str, Any], arguments: Sequence[str], labels: Sequence[str] = ()
) -> list[SweepRow]:
    """Return the runs of one sweep, or of all sweeps that `+sweeps=A,B` names among the arguments.

    Args:
        params: Parameters of the sweep that Hydra has composed.
        rows: Rows of that sweep.
        arguments: Overrides of the command line, possibly with several choices.
        labels: Labels or patterns of the rows to keep; empty for all.

    Raises:
        UserError: A row cannot be read, or a label names no row.
    """
    named = [argument for argument in arguments if argument.startswith(f"{SWEEPS_KEY}=")]
    names = [name.partition("=")[2] for argument in named for name in choices(argument)]
    if len(names) < 2:
        return expand(params, select_rows(rows, labels), arguments)
    others = [argument for argument in arguments if argument not in named]
    files = {name: read_sweep_file(name) for name in names}
    kept = select_rows({(name, label): row for name, file in files.items() for label, row in file.rows.items()}, labels)
    expanded = []
    for name, file in files.items():
        chosen = {label: row for (sweep, label), row in kept.items() if sweep == name}
        if chosen or not file.rows:
            expanded += expand(file.params, chosen, [f"{SWEEPS_KEY}={name}", *others])
    return expanded


def read_sweep_file(name: str) -> SweepFile:
    """Return the rows and parameters of a sweep file. Raises UserError where there is no such file."""
    for folder in (SWEEPS_FOLDER, *(each / SWEEPS_GROUP for each in config_folders()[1:])):
        path: Path = folder / f"{name}.yaml"
        if path.is_file():
            sweeper = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper", default=OmegaConf.create())
            content: Any = OmegaConf.to_container(sweeper)
            return SweepFile(content.get("rows") or {}, content.get("params") or {})
    options = group_options(SWEEPS_GROUP)
    raise UserError(f"+sweep={name} is not one of {', '.join(options)}{nearest(name, options)}.")


def select_rows(rows: dict[Any, Any], labels: Sequence[str]) -> dict[Any, Any]:
    """Return the rows whose label is one of `labels` or matches one as a pattern; all rows for no labels.

    Args:
        rows: Rows by label, or by sweep and label.
        labels: Labels and patterns.

    Raises:
        UserError: A label names no row.
    """
    if not labels:
        return rows
    of_key = {key: key[1] if isinstance(key, tuple) else key for key in rows}
    chosen = set()
    for label in labels:
        exact = {key for key, known in of_key.items() if known == label}
        found = exact or {key for key, known in of_key.items() if fnmatchcase(known, label)}
        if not found:
            known = list(dict.fromkeys(of_key.values()))
            listed = ", ".join(repr(each) for each in known) or "none"
            raise UserError(f"rows={label} names no row of the sweep{nearest(label, known)}; the labels are {listed}.")
        chosen |= found
    return {key: row for key, row in rows.items() if key in chosen}


def expand(params: dict[str, Any], rows: dict[str, Any], arguments: Sequence[str]) -> list[SweepRow]:
    """Return the runs of a sweep: every row with every combination of the parameters and arguments.

    For each key, the arguments take precedence over the row, and the row over the parameters. Raises UserError for a
    row that cannot be read.

    Args:
        params: Values of keys; `0,1`, `range(2)` and `[0, 1]` stand for two choices.
        rows: Overrides of each row, by label; see `read_row`.
        arguments: Overrides of the command line, possibly with several choices.
    """
    given = {parse(argument).get_key_element(): argument for argument in arguments}
    texts = [with_full_key(f"{key}={parameter_text(key, value)}") for key, value in params.items()]
    defaults = {parse(text).get_key_element(): text for text in texts}
    data = given.get("data") or defaults.get("data") or f"data={DEFAULT_DATA}"
    read: dict[str | None, tuple[list[str], dict[str, Any]]] = {
        label: read_row(label, row, data.split("=", 1)[1]) for label, row in rows.items()
    }
    expanded: list[SweepRow] = []
    for label, (overrides, launcher) in (read or {None: ([], {})}).items():
        of_row = {parse(override).get_key_element(): override for override in overrides}
        merged = {**defaults, **of_row, **given}
        own = {key for key in of_row if key not in given}
        names = list(merged)
        for combination in itertools.product(*(choices(override) for override in merged.values())):
            chosen = [pair for pair in zip(names, combination, strict=True) if pair[1] not in NO_CHOICES]
            others = tuple(override for key, override in chosen if key not in own)
            expanded.append(SweepRow([override for _, override in chosen], label, launcher, others))
    return expanded


def choices(override: str) -> list[str]:
    """Return the overrides with one choice each: `seed=0,1` -> `seed=0` and `seed=1`.

    Raises UserError for choices without an end, such as `interval(0, 1)`.
    """
    parsed = parse(override)
    if not parsed.is_sweep_override():
        return [override]
    key = parsed.get_key_element()
    if isinstance(glob := parsed.value(), Glob):
        group = parsed.key_or_group
        if not (found := glob.filter(group_options(group))):
            raise UserError(f"{override} matches none of {', '.join(group_options(group))}.")
        return [f"{key}={name}" for name in found]
    if not parsed.is_discrete_sweep():
        raise UserError(
            f"{override} has infinitely many values: list them, as in {key}=0.1,0.2, or search "
            "among them with hydra/sweeper=optuna."
        )
    return [f"{key}={value}" for value in parsed.sweep_string_iterator()]


def parameter_text(key: str, value: Any) -> str:
    """Return the value of a parameter as on the command line; the items of a list are choices."""
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ",".join(_word(item) for item in value)
    return _word(value)


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_row(label: str, row: Any, data: str) -> tuple[list[str], dict[str, Any]]:
    """Return the overrides of a row, and its options of the launcher. Raises UserError if the row cannot be read.

    Args:
        label: Label of the row, for error messages.
        row: Text such as `model.mask_flow=false seed=1`, or a list of overrides; or a dict with one of these per data
            set; or a dict with one of these as `overrides`, and options of the launcher as `launcher`.
        data: Choice of the group `data`, which selects from a dict.
    """
    launcher: dict[str, Any] = {}
    if isinstance(row, dict) and row.keys() & ROW_KEYS:
        if unknown := sorted(row.keys() - ROW_KEYS):
            raise UserError(
                f"row '{label}' of the sweep has the key {unknown[0]}{nearest(unknown[0], ROW_KEYS)}: a row has "
                "overrides, and launcher for options of the launcher."
            )
        launcher, row = row.get("launcher") or {}, row.get("overrides")
        if not isinstance(launcher, dict):
            raise UserError(f"row '{label}' of the sweep: launcher must be options such as {{gpus_per_node: 8}}.")
    if isinstance(row, dict):
        if data not in row:
            raise UserError(f"row '{label}' of the sweep has no entry for data={data}, only for {', '.join(row)}.")
        row = row[data]
    if row is None or row == "":
        return [], launcher
    try:
        parts = row if isinstance(row, list | tuple) else shlex.split(row) if isinstance(row, str) else None
    except ValueError:
        parts = None
    if parts is None or not all(isinstance(part, str) and re.match(r"[^=]+=", part) for part in parts):
        raise UserError(
            f"row '{label}' of the sweep is {row!r}: write overrides as on the command line, such as "
            "model=htc model.mask_flow=false."
        )
    return [with_full_key(part) for part in parts], launcher
