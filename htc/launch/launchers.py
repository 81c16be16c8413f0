"""From the overrides that Hydra hands over to runs that are started: what both launchers do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from htc.errors import UserError
from htc.launch.estimate import Throughput
from htc.launch.plan import plan, sweep_folder_of
from htc.launch.plan_report import dry_run_report
from htc.launch.status.states import sweep_states
from htc.launch.submit import launch
from htc.launch.sweep import Composer


def launch_overrides(
    context: HydraContext, master: DictConfig, rows: Sequence[Sequence[str]], launcher: str, options: Mapping[str, Any]
) -> None:
    """Start the runs of these overrides, or print them with `dry_run`. Exits with 1 where one failed.

    Raises UserError for what the user can mend.
    """
    check_options(launcher, options)
    loader = context.config_loader

    def compose(overrides: list[str]) -> DictConfig:
        composed = loader.load_sweep_config(master, overrides)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    configs = Composer(compose).configs(rows)
    paired = list(zip(configs, [list(row) for row in rows], strict=True))
    if options["dry_run"]:
        folders = {sweep_folder_of(config) for config in configs}
        states = {folder: {state.name: state for state in sweep_states(folder)[0]} for folder in folders}
        planned = plan(paired, states)
        throughput = Throughput(Path(configs[0].runs))
        estimates = [throughput.hours(each.row.config) for each in planned]
        shown = [brief(each.row.overrides) for each in planned]
        common = set(shown[0]).intersection(*shown[1:]) if len(shown) > 1 else set()
        print(dry_run_report(planned, [[o for o in row if o not in common] for row in shown], estimates))
        if common:
            print("All with: " + " ".join(override for override in shown[0] if override in common))
        return
    _, failed = launch(paired, launcher, options)
    if failed:
        print(f"{len(failed)} of {len(configs)} runs did not end well: {', '.join(failed[:5])}", file=sys.stderr)
        sys.exit(1)


def brief(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that name the run instead of describing it."""
    return [override for override in overrides if override.split("=")[0] not in ("name", "+sweeps", "runs")]


def check_options(launcher: str, options: Mapping[str, Any]) -> None:
    """Refuse what no launcher can do. Raises UserError."""
    whole = ("nodes", "max_running", "jobs", "gpus_per_run", "cpus_per_task", "retries", "tasks_per_node")
    for key, low in (*((key, 1) for key in whole), ("gpus_per_node", 0), ("signal_before", 0)):
        value = options.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise UserError(f"launcher.{key}={value} must be a whole number, {low} or more.")
