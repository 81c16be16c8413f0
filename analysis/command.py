"""What the commands of this package share: help, KEY=VALUE arguments, and one sentence for an error of the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from htc.arguments import parse_arguments
from htc.errors import UserError

MIN_RESAMPLES = 100
Values = Mapping[str, str]


def run(
    arguments: Sequence[str] | None,
    usage: str,
    usage_line: str,
    defaults: Values,
    body: Callable[[Values, Values], int],
) -> int:
    """Run a command and return its exit status: that of `body`, 0 for help, 2 for an error that the user can fix.

    Args:
        arguments: the command line without the program; None for that of this process.
        usage: what `--help` prints.
        usage_line: one line that shows the command's form, for messages.
        defaults: value of each key of the command where it is not given.
        body: what the command does with the values by key: all of them, and those that are given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(usage, end="")
        return 0
    try:
        given = parse_arguments(arguments, usage_line, keys=defaults).values
        return body({**defaults, **given}, given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def read_count(values: Values, key: str, lowest: int) -> int:
    """Return the whole number of a key. Raises UserError for any other value, and for a lower one."""
    # htc.arguments.read_number reads keys that may be missing.
    if not values[key].isdecimal() or int(values[key]) < lowest:
        raise UserError(f"{key}={values[key]} must be a whole number, {lowest} or more.")
    return int(values[key])
