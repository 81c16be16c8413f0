"""Shared by the commands: bad input ends in one sentence and a non-zero exit status, never in a traceback.

`--help` reads this file, so nothing heavy is imported here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from htc.arguments import Arguments, parse_arguments
from htc.config.messages import explain, raised_by_hydra
from htc.config.schema import schema_keys
from htc.errors import UserError, memory_errors_as_user_errors

USER_ERROR = UserError.status


def run_command(main: Callable[[], Any]) -> None:
    """Run a command's `main`; print a UserError, or a configuration that cannot be composed, as one sentence."""
    # Hydra then raises its exceptions instead of printing them in its own words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with memory_errors_as_user_errors():
            main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has closed it. Python flushes the output once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        fail(error.sentence, error.status)
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename} cannot be used ({error.strerror}): make it readable, or writable if it is an output.")
    except Exception as error:
        if not raised_by_hydra(error):
            raise
        fail(explain(error, sys.argv[1:]))


def log_to_console() -> None:
    """Send the log to standard error, one plain line per message."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("htc.trained_model").setLevel(logging.INFO)


def fail(sentence: str, status: int = USER_ERROR) -> NoReturn:
    """Print the sentence to standard error and exit."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def read_arguments(arguments: Sequence[str], known: Mapping[str, str], usage: str, *, max_words: int = 0) -> Arguments:
    """Parse the arguments of a command that takes its own keys and overrides of the run's configuration.

    Args:
        arguments: the command line without the program; `--help` prints the usage and exits.
        known: description of each of the command's own keys.
        usage: one line that shows the command's form.
        max_words: largest number of arguments that are not KEY=VALUE.

    Raises:
        UserError: for anything that is neither an own key nor a key of the configuration.
    """
    if {"-h", "--help"} & set(arguments):
        lines = [f"  {key:<12} {text}" for key, text in known.items()]
        print("\n".join([f"usage: {usage}", "", *lines, "", "and any key of the run's configuration, KEY=VALUE."]))
        sys.exit(0)
    return parse_arguments(arguments, usage, keys=known, config_keys=set(schema_keys()), max_words=max_words)


def read_settings(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the KEY=VALUE arguments of a script over its defaults. Raises UserError for any other key."""
    usage = " ".join(f"[{key}=VALUE]" for key in defaults)
    return {**defaults, **parse_arguments(arguments, usage, keys=defaults).values}
