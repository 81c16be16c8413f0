"""Hydra plugins of htc.launch: the launchers `local` and `slurm`, and the sweepers `rows` and `optuna`.

Hydra only accepts plugins from the package `hydra_plugins`, and imports this file at every start. So the modules that
do the work are imported only when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _Launcher(Launcher):
    """Starts the runs of a sweep that are missing."""

    name = ""
    """Name of the launcher."""

    def __init__(self, **options: Any) -> None:
        self.options = {key: _plain(value) for key, value in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from htc.launch.sweep import SweepRow

        self.launch_rows([SweepRow(list(overrides)) for overrides in job_overrides])
        returns = [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]
        for each in returns:
            each.return_value = None
        return returns

    def launch_rows(self, rows: Sequence[Any]) -> None:
        """Start the runs of the rows (`htc.launch.sweep.SweepRow`) that are missing."""
        from htc.launch import launchers

        launchers.launch_rows(self.hydra_context, self.config, rows, self.name, self.options)


class LocalLauncher(_Launcher):
    name = "local"


class SlurmLauncher(_Launcher):
    name = "slurm"


class RowSweeper(Sweeper):
    """Expands a sweep: combines each row with each combination of the parameters and of the command line's choices."""

    def __init__(self, rows: DictConfig | None = None, params: DictConfig | None = None, select: Any = None) -> None:
        self.rows, self.params, self.labels = _plain(rows) or {}, _plain(params) or {}, _plain(select) or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        removed = re.compile(r"\+{0,2}hydra\.sweeper\.rows\.([^=]+)=(?:null)?$")
        for override in config.hydra.overrides.hydra:
            # In a file, an empty row is one without overrides.
            if found := removed.match(override):
                self.rows.pop(found[1], None)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from htc.launch.sweep import expand_sweeps

        assert self.launcher is not None
        rows = expand_sweeps(self.params, self.rows, arguments, self.labels)
        if isinstance(self.launcher, _Launcher):
            # Labels and options of rows do not fit into overrides, which is all that other launchers take.
            return self.launcher.launch_rows(rows)
        return self.launcher.launch([row.overrides for row in rows], initial_job_idx=0)


class OptunaSweeper(Sweeper):
    """Searches for the settings with the best AP, by optuna."""

    def __init__(self, params: DictConfig | None = None, **options: Any) -> None:
        self.params = _plain(params) or {}
        self.options = {key: _plain(value) for key, value in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from htc.errors import UserError
        from htc.launch.launchers import search

        if not isinstance(self.launcher, _Launcher):
            raise UserError("hydra/sweeper=optuna needs hydra/launcher=local or hydra/launcher=slurm.")
        launcher = self.launcher
        search(
            launcher.hydra_context, launcher.config, self.params, arguments, self.options, launcher.name,
            launcher.options,
        )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a configuration node as plain lists, dicts and values."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
