"""Evaluate the runs of a sweep again, with other evaluation settings: on this machine or on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from htc.config.compose import recorded_config
from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import Affects, register
from htc.config.signature import affected
from htc.errors import UserError, nearest
from htc.launch.launchers import check_options, print_plan
from htc.launch.plan import RequestedRun
from htc.launch.submit import launch
from htc.runs.folder import RunFolder
from htc.runs.pool import read_rows, sweep_names


def evaluate_sweep(
    pool: Path, sweep: str, overrides: Sequence[str], launcher: Sequence[str] = (), *, dry_run: bool = False
) -> None:
    """Start the evaluations of a sweep's trained runs that are missing; the rows of the sweep stay as they are.

    Exits with 1 if an evaluation fails while this waits for it.

    Args:
        pool: Folder of all runs.
        sweep: Name of the sweep.
        overrides: KEY=VALUE for the recorded configurations, and `eval=NAME`.
        launcher: Overrides that choose and set the launcher, such as `hydra/launcher=slurm`.
        dry_run: Print what would be done, and start nothing.

    Raises:
        UserError: There is no such sweep, an override changes the training, or the launcher refuses.
    """
    refuse_training_settings(overrides)
    requests = requested_evaluations(pool, sweep, overrides)
    name, options = launcher_of(launcher)
    if dry_run or options["dry_run"]:
        print_plan(requests)
        return
    if failed := launch(requests, name, options, record=False):
        print(f"{len(failed)} evaluations did not end well: {', '.join(failed[:5])}", file=sys.stderr)
        sys.exit(1)


def requested_evaluations(pool: Path, sweep: str, overrides: Sequence[str]) -> list[RequestedRun]:
    """Return the evaluations of the trained runs of a sweep; the other runs are named on standard error.

    Raises UserError where there is no such sweep, or none of its runs is trained.
    """
    rows = read_rows(pool, sweep)
    if not rows:
        names = sweep_names(pool)
        raise UserError(f"sweep={sweep} has no rows below {pool}{nearest(sweep, names)}.")
    requests, untrained = [], []
    for row in {row.run: row for row in rows}.values():
        folder = RunFolder(pool / row.run)
        if not folder.trained:
            untrained.append(row.run)
            continue
        config = recorded_config(folder.read_config(), [*overrides])
        config.runs, config.sweep, config.force = str(pool), sweep, False
        requests.append(RequestedRun(config, [*row.overrides, *overrides], row.label, run=row.run))
    if untrained:
        print(f"not trained, so not evaluated: {', '.join(untrained)}", file=sys.stderr)
    if not requests:
        raise UserError(f"sweep={sweep}: none of its runs is trained yet.")
    return requests


def refuse_training_settings(overrides: Sequence[str]) -> None:
    """Raise UserError for an override that would make another training."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key != "eval" and affected(key) is Affects.training:
            raise UserError(
                f"{override} changes the training, and not only the evaluation: launch these runs with it, or evaluate "
                "single runs by run=RUN."
            )


def launcher_of(overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the launcher that overrides choose. Raises UserError for unknown options."""
    register()
    full = [f"hydra.{each}" if each.startswith("launcher.") else each for each in overrides]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        composed = compose("config", full, return_hydra_config=True)
    options: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    del options["_target_"]
    name = str(composed.hydra.runtime.choices["hydra/launcher"])
    check_options(name, options)
    return name, options
