"""Launch the runs of the overrides that Hydra passes on: the part that both launchers share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import yaml
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from htc.config.folders import CONFIG_FOLDER
from htc.errors import UserError, nearest
from htc.launch.composer import Composer
from htc.launch.estimate import Throughput
from htc.launch.plan import RequestedRun, plan
from htc.launch.plan_report import dry_run_report
from htc.launch.sbatch import Gpus
from htc.launch.search import Search, SearchOptions, import_optuna
from htc.launch.search_space import SearchSpace
from htc.launch.submit import launch
from htc.launch.sweep import SweepRow

LAUNCHERS = ("local", "slurm")


def launch_rows(
    context: HydraContext, master: DictConfig, rows: Sequence[SweepRow], launcher: str, options: Mapping[str, Any]
) -> None:
    """Start the runs of these rows, or only print them with the option `dry_run`. Exit with 1 if a run failed.

    Args:
        context: Hydra's context, whose loader composes configurations.
        master: The configuration of the command line, which the overrides are applied to.
        rows: Rows of the sweeps, one per run.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.

    Raises:
        UserError: An option or an override is not valid, or the runs cannot be started.
    """
    check_options(launcher, options)
    of_rows = [row_options(launcher, row) for row in rows]
    configs = composer(context, master).configs([row.overrides for row in rows])
    requests = [
        RequestedRun(config, row.overrides, row.label, of_row, row.given)
        for config, row, of_row in zip(configs, rows, of_rows, strict=True)
    ]
    if options["dry_run"]:
        print_plan(requests)
        return
    failed = launch(requests, launcher, options)
    if failed:
        print(f"{len(failed)} of {len(configs)} runs did not end well: {', '.join(failed[:5])}", file=sys.stderr)
        sys.exit(1)


def search(
    context: HydraContext,
    master: DictConfig,
    params: Mapping[str, Any],
    arguments: Sequence[str],
    search_options: Mapping[str, Any],
    launcher: str,
    options: Mapping[str, Any],
) -> None:
    """Search for the settings with the best AP, or only print what would be done with the option `dry_run`.

    Args:
        context: Hydra's context, whose loader composes configurations.
        master: The configuration of the command line, which the overrides are applied to.
        params: Parameters of a sweep file: what varies, and what is the same in all trials.
        arguments: The same from the command line.
        search_options: Options of the search, with the keys of conf/hydra/sweeper/optuna.yaml.
        launcher: `slurm` or `local`.
        options: The launcher's options, with the keys of conf/hydra/launcher.

    Raises:
        UserError: An option or an override is not valid, or the runs cannot be started.
    """
    check_options(launcher, options)
    import_optuna()
    for key in search_options:
        if key in ("rows", "select"):
            raise UserError(
                "a search has no rows: leave out +sweep or rows=, and give what is the same in all trials as KEY=VALUE."
            )
        if key not in (known := [item.name for item in fields(SearchOptions)]):
            raise UserError(f"sweeper.{key} is not an option of a search{nearest(key, known)}.")
    settings = SearchOptions(**search_options)
    compose = composer(context, master)

    def request(overrides: list[str], label: str) -> RequestedRun:
        (config,) = compose.configs([overrides])
        return RequestedRun(config, overrides, label)

    searched = Search(SearchSpace.of(params, arguments), settings, request, launcher, options)
    if options["dry_run"]:
        print(searched.describe())
    else:
        searched.run()


def composer(context: HydraContext, master: DictConfig) -> Composer:
    """Return what composes the configurations of runs from the configuration of the command line."""
    loader = context.config_loader

    def compose(row: list[str]) -> DictConfig:
        composed = loader.load_sweep_config(master, row)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    return Composer(compose)


def print_plan(requests: Sequence[RequestedRun]) -> None:
    """Print what a launch of these runs would do and cost."""
    for pool in dict.fromkeys(request.pool for request in requests):
        chosen = [request for request in requests if request.pool == pool]
        planned = plan(pool, chosen)
        throughput = Throughput(pool)
        estimates = [throughput.hours(each.row.config) for each in planned]
        rows = [descriptive(each.row.overrides) for each in planned]
        common = set(rows[0]).intersection(*rows[1:]) if len(rows) > 1 else set()
        shown = [[override for override in row if override not in common] for row in rows]
        print(dry_run_report(planned, shown, estimates, len(chosen)))
        if common:
            print("All with: " + " ".join(override for override in rows[0] if override in common))


def descriptive(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that describe the run, without those that only name it."""
    return [override for override in overrides if override.split("=")[0] not in ("name", "+sweeps", "runs", "sweep")]


def check_options(launcher: str, options: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError for an unknown option, and for an option that counts something and is out of its range.

    Args:
        launcher: `slurm` or `local`.
        options: Options of the launcher.
        where: Where they are written, for the message.
    """
    known = launcher_options(launcher)
    for key in options:
        if key not in known:
            raise UserError(f"launcher.{key} is not an option of the launcher {launcher}{where}{nearest(key, known)}.")
    counts = (
        "nodes", "max_running", "jobs", "gpus_per_run", "cpus_per_task", "retries", "tasks_per_node", "submit_limit",
    )  # fmt: skip
    for key, low in (*((key, 1) for key in counts), ("signal_before", 0)):
        value = options.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise UserError(f"launcher.{key}={value}{where} must be a whole number, {low} or more.")
    for key in ("wait", "dry_run", "fail_fast"):
        if options.get(key) is not None and not isinstance(options[key], bool):
            raise UserError(f"launcher.{key}={options[key]}{where} must be true or false.")
    if options.get("gpus_per_node") is not None:
        Gpus.parse(options["gpus_per_node"], where)


def row_options(launcher: str, row: SweepRow) -> dict[str, Any]:
    """Return the options of a row that this launcher has; a sweep may have options for another launcher, too.

    Raises UserError for an option that no launcher has, and for one that is out of its range.
    """
    others = frozenset().union(*map(launcher_options, LAUNCHERS)) - launcher_options(launcher)
    own = {key: value for key, value in row.launcher.items() if key not in others}
    check_options(launcher, own, f" in row '{row.label}'")
    return own


@cache
def launcher_options(launcher: str) -> frozenset[str]:
    """Return the keys that a launcher has: those of its file in conf/hydra/launcher."""
    # Kept, because each row of a sweep asks for it.
    path = CONFIG_FOLDER / "hydra" / "launcher" / f"{launcher}.yaml"
    return frozenset(yaml.safe_load(path.read_text(encoding="utf-8"))) - {"_target_", "defaults"}
