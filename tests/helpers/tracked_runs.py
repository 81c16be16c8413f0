"""Tracking of run folders that exist already, by wandb itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from htc.config.compose import recorded_config
from htc.config.schema import WandbMode
from htc.runs.folder import RunFolder
from htc.runs.tracking import Tracker


def start_tracking(folder: Path, mode: WandbMode = WandbMode.offline, project: str = "htc") -> Tracker:
    """Start to track a run folder as its run does when it starts."""
    run = RunFolder(folder)
    config = recorded_config(run.read_config(), [])
    tracked = replace(config, wandb=replace(config.wandb, mode=mode, project=project))
    tracker = Tracker.start(tracked, folder, run.read_metrics())
    assert tracker.on
    return tracker


def track(folder: Path, mode: WandbMode = WandbMode.offline) -> None:
    """Track a run folder from its start to its end."""
    run = RunFolder(folder)
    status = run.read().status
    tracker = start_tracking(folder, mode)
    tracker.finish(
        run.read_results() if status == "done" else None,
        exit_code=0 if status == "done" else 1,
        preempted=status == "preempted",
    )
