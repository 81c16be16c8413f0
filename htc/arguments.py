"""Parsing of KEY=VALUE arguments, for every command that is not composed by Hydra itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from htc.errors import UserError, nearest


@dataclass
class Arguments:
    """The arguments of one command."""

    values: dict[str, str] = field(default_factory=dict)
    """Values of the command's own keys."""
    overrides: list[str] = field(default_factory=list)
    """KEY=VALUE arguments for the run's configuration."""
    words: list[str] = field(default_factory=list)
    """Arguments that are neither KEY=VALUE nor options."""
    options: set[str] = field(default_factory=set)
    """Arguments such as `--json`."""


def parse_arguments(
    arguments: Sequence[str],
    usage: str,
    *,
    keys: Collection[str] = (),
    config_keys: Collection[str] = (),
    options: Collection[str] = (),
    max_words: int = 0,
) -> Arguments:
    """Sort the arguments of a command by kind.

    Args:
        arguments: the command line without the program.
        usage: one line that shows the command's form, for messages.
        keys: the command's own keys, each given at most once.
        config_keys: keys of the run's configuration that the command accepts as overrides.
        options: accepted arguments that begin with a dash.
        max_words: largest number of other arguments.

    Raises:
        UserError: for an argument that the command does not know, and for one of its own keys that has no value or is
            given twice.
    """
    parsed = Arguments()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            if argument not in options:
                raise UserError(
                    f"{argument} is not an option of this command{nearest(argument, options)}; usage: {usage}."
                )
            parsed.options.add(argument)
        elif not equals and argument not in keys:
            if len(parsed.words) == max_words:
                raise UserError(f"{argument} is not of the form KEY=VALUE; usage: {usage}.")
            parsed.words.append(argument)
        elif key in keys:
            if not value:
                raise UserError(f"{key} has no value: write {key}=VALUE.")
            if key in parsed.values:
                raise UserError(f"{key} is given twice, as {parsed.values[key]!r} and {value!r}: give it once.")
            parsed.values[key] = value
        elif key in config_keys:
            parsed.overrides.append(argument)
        else:
            known = {*keys, *config_keys}
            raise UserError(f"{key} is not a key of this command{nearest(key, known)}; usage: {usage}.")
    return parsed


def read_flag(values: dict[str, str], key: str, default: bool) -> bool:
    """Return the value of a key that is true or false. Raises UserError for anything else."""
    value = values.get(key, str(default)).lower()
    if value not in ("true", "false"):
        raise UserError(f"{key}={values[key]} must be true or false.")
    return value == "true"


def read_count(values: dict[str, str], key: str, default: int, lowest: int) -> int:
    """Return the value of a key that is a whole number.

    Args:
        values: values of the command's own keys.
        key: the key to read.
        default: the number where the key is not given.
        lowest: the smallest valid number.

    Raises:
        UserError: for a value that is not a whole number, or is too small.
    """
    value = values.get(key, str(default))
    if not value.isdecimal() or int(value) < lowest:
        raise UserError(f"{key}={value} must be a whole number of {lowest} or more.")
    return int(value)
