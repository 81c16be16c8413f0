"""`python -m htc.run [GROUP=NAME] [KEY=VALUE] ...`: train, evaluate and record one run; with -m, several."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from htc.cli import fail, run_command
from htc.config.checks import check_training
from htc.config.compose import with_full_key
from htc.config.finalize import finalize
from htc.config.folders import CONFIG_FOLDER, NO_CHOICES, SWEEPS_GROUP, group_options
from htc.config.messages import explain
from htc.config.schema import Config, register
from htc.errors import UserError, nearest

if TYPE_CHECKING:
    from htc.api import Run

register()


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def main(composed: DictConfig) -> None:
    try:
        config = finalize(composed)
        check_training(config)
        # Imported here: PyTorch takes seconds to import, and neither --help nor a refused key needs it.
        from htc.experiment import run_experiment

        run_experiment(config, ["python", "-m", "htc.run", *sys.argv[1:]])
    except UserError as error:
        # In a sweep, Hydra continues with the other runs and reports the failed ones at its end.
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        fail(error.sentence, error.status)
    except OmegaConfBaseException as error:
        # Hydra would print a line of its own before the sentence.
        fail(explain(error, sys.argv[1:]))


def start() -> None:
    """Run the command from the command line, with its short forms expanded."""
    run_command(_start)


def _start() -> None:
    check_options(sys.argv[1:])
    sys.argv[1:] = expand_short_forms(sys.argv[1:])
    main()


OPTIONS_WITH_VALUE = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),
    "--config-dir": (),
    "--experimental-rerun": (),
}
"""Options of Hydra that take a value, with the possible values; none for any."""
OPTIONS = {
    "--multirun", "-m", "--dry-run", "--help", "-h", "--hydra-help", "--resolve", "--version", "--run", "-r",
    "--shell-completion", "-sc",
}  # fmt: skip
SHORT_OPTIONS = {"-c": "--cfg", "-i": "--info", "-p": "--package", "-cd": "--config-dir"}


def check_options(arguments: Sequence[str]) -> None:
    """Raise UserError for an unknown option, an option without a valid value, and a combination without meaning.

    Hydra's own answer is its complete usage.
    """
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("-"):
            continue
        name, equals, value = argument.partition("=")
        option = SHORT_OPTIONS.get(name, name)
        if option in OPTIONS and not equals:
            continue
        if option not in OPTIONS_WITH_VALUE:
            known = [*OPTIONS_WITH_VALUE, *OPTIONS]
            raise UserError(
                f"{argument} is not an option of htc.run{nearest(name, known)}; --help shows what there is."
            )
        possible = OPTIONS_WITH_VALUE[option]
        value = value if equals else next(waiting, "")
        if option == "--info" and not value:
            continue
        if not value or (possible and value not in possible):
            listed = f"one of {', '.join(possible)}" if possible else "a value"
            raise UserError(f"{name} needs {listed}, as in {name} {possible[0] if possible else 'VALUE'}.")
    several = [argument for argument in arguments if argument in ("-m", "--multirun", "--dry-run", "--run", "-r")]
    several += [argument for argument in arguments if argument.startswith(("+sweep=", f"+{SWEEPS_GROUP}="))]
    shows = [argument for argument in arguments if SHORT_OPTIONS.get(argument, argument) in ("--cfg", "--info")]
    if shows and several:
        raise UserError(
            f"{shows[0]} shows the configuration of one run and has no meaning with {several[0]}: leave that out, or "
            "use --dry-run in place of it to see the runs of a sweep."
        )


SHOWS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc"}
"""Options that show something instead of running."""
OF_LAUNCHER = re.compile(r"^\+{0,2}(hydra/launcher=|hydra\.launcher\.|launcher\.|hydra/sweeper=)")


def expand_short_forms(arguments: list[str]) -> list[str]:
    """Return the arguments in Hydra's form.

    - `-m` moves to the front: Hydra does not read overrides behind a `-m` that follows other overrides. It is added
      where an argument is meant for a launcher, which would do nothing without it.
    - `checkpoint=FILE` becomes `checkpoint.file=FILE`, and `continue=RUN` becomes `continue_from=RUN`; see
      `with_full_key`.
    - `+sweep=A +sweep=B` becomes `+sweeps=A,B`, the group of sweep files: the name `sweep` is a key. So does `sweep=A`
      where there is a sweep file of this name.
    - `rows=LABEL,LABEL` becomes `hydra.sweeper.select`.
    - `launcher.KEY` becomes `hydra.launcher.KEY`, likewise `sweeper.KEY`, and `--dry-run` sets one of these keys.
    """
    shows = any(argument.partition("=")[0] in SHOWS for argument in arguments)
    flags = {"-m", "--multirun", "--dry-run"} & set(arguments)
    if flags or (not shows and any(map(OF_LAUNCHER.match, arguments))):
        # The launcher plans single runs, too.
        arguments = ["-m", *(argument for argument in arguments if argument not in flags)]
    if "--dry-run" in flags:
        arguments.append("launcher.dry_run=true")
    # Hydra refuses null for a group, even where null is the default.
    arguments = [argument for argument in _with_sweep_files(arguments) if argument not in NO_CHOICES]
    of_hydra = r"^(\+{0,2})(launcher|sweeper)\."
    arguments = [with_full_key(re.sub(of_hydra, r"\1hydra.\2.", each)) for each in arguments]
    return [_row_labels(argument) if argument.startswith("rows=") else argument for argument in arguments]


def _with_sweep_files(arguments: list[str]) -> list[str]:
    """Return the arguments with one override that names all sweep files, and with `-m` where these are several."""
    files = group_options(SWEEPS_GROUP)
    prefixes = ("+sweep=", f"+{SWEEPS_GROUP}=")
    named = [argument for argument in arguments if argument.startswith(prefixes)]
    if not named:
        named = [argument for argument in arguments if argument.startswith("sweep=") and argument[6:] in files]
        for argument in named:
            print(f"note: {argument} names a sweep file: it is read as +{argument}.", file=sys.stderr)
    if not named:
        return arguments
    values = [argument.partition("=")[2] for argument in named]
    several = len(values) > 1 or re.search(r"[,(*]", values[0])
    others = [argument for argument in arguments if argument not in named]
    flag = ["-m"] if several and not {"-m", "--multirun"} & set(others) else []
    return [*flag, *others, f"+{SWEEPS_GROUP}={','.join(values)}"]


def _row_labels(argument: str) -> str:
    """Return `rows=A,'B, C'` as the value of hydra.sweeper.select, quoted for Hydra's grammar."""
    text = " ".join(argument.partition("=")[2].split())
    labels = next(csv.reader([text], quotechar="'", skipinitialspace=True), [])
    quoted = ("'" + label.replace("\\", "\\\\").replace("'", "\\'") + "'" for label in labels)
    return f"hydra.sweeper.select=[{','.join(quoted)}]"


class _Command(ModuleType):
    """This module, callable: `from htc import run` gives the module instead of the function once it was imported."""

    def __call__(self, config: Config | Sequence[str]) -> Run:
        from htc.api import run

        return run(config)


if __name__ == "__main__":
    start()
else:
    sys.modules[__name__].__class__ = _Command
