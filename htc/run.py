"""`python -m htc.run [GROUP=NAME] [KEY=VALUE] ...`: train, evaluate and record one run; with -m, several."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from htc.cli import fail, run_command
from htc.composition import finalize
from htc.config import register
from htc.errors import UserError

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(composed: DictConfig) -> None:
    try:
        config = finalize(composed)
        # Only now: PyTorch takes seconds to import, and neither --help nor a refused key needs it.
        from htc.experiment import run_experiment

        run_experiment(config, ["python", "-m", "htc.run", *sys.argv[1:]])
    except UserError as error:
        # The other runs of a sweep go on: Hydra reports the failed ones at its end.
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        fail(error.sentence)


if __name__ == "__main__":
    run_command(main)
