"""`python -m htc.run [GROUP=NAME] [KEY=VALUE] ...`: train, evaluate and record one run; with -m, several."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from htc.cli import fail, run_command
from htc.config.checks import check_training
from htc.config.finalize import finalize
from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import Config, register
from htc.errors import UserError

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


def start() -> None:
    """Run the command from the command line, with its short forms expanded."""
    sys.argv[1:] = expand_short_forms(sys.argv[1:])
    run_command(main)


def expand_short_forms(arguments: list[str]) -> list[str]:
    """Return the arguments in Hydra's form.

    - `-m` moves to the front: Hydra does not read overrides behind a `-m` that follows other overrides.
    - `checkpoint=FILE` becomes `checkpoint.file=FILE`: Hydra cannot assign a value to a node.
    - `+sweep=NAME` becomes `+sweeps=NAME`, the group of sweep files: the name `sweep` is a key.
    - `launcher.KEY` becomes `hydra.launcher.KEY`, and `--dry-run` sets one of these keys.
    """
    flags = {"-m", "--multirun", "--dry-run"} & set(arguments)
    if flags:
        # The launcher plans single runs, too.
        arguments = ["-m", *(argument for argument in arguments if argument not in flags)]
    if "--dry-run" in flags:
        arguments.append("launcher.dry_run=true")
    for short, full in (
        (r"^(\+{0,2})checkpoint=", r"\1checkpoint.file="),
        (r"^\+sweep=", "+sweeps="),
        (r"^(\+{0,2})launcher\.", r"\1hydra.launcher."),
    ):
        arguments = [re.sub(short, full, argument) for argument in arguments]
    return arguments


class _Command(ModuleType):
    """This module, callable: `from htc import run` gives the module instead of the function once it was imported."""

    def __call__(self, config: Config | Sequence[str]) -> Run:
        from htc.api import run

        return run(config)


if __name__ == "__main__":
    start()
else:
    sys.modules[__name__].__class__ = _Command
