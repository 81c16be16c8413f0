"""Plan of a launch: for each requested run, whether to leave it as it is, start it or resume it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from htc.config.schema import Config
from htc.config.signature import signature, to_plain
from htc.launch.status.states import RunState
from htc.launch.submission import Row
from htc.runs.folder import find_folder, folder_name

LEAVE_STATES = ("done", "running", "queued", "unknown")
"""States of runs that a launch does not start."""


@dataclass
class PlannedRun:
    """One requested run and its state."""

    row: Row
    sweep_folder: Path
    state: str
    """One of htc.launch.status.states.STATES, or `new`."""

    @property
    def action(self) -> str:
        """What the launch does with the run: `leave`, `start` or `resume`."""
        checkpoints = self.sweep_folder / self.row.folder / "checkpoints"
        # Listing the folders of thousands of runs takes time, so only those that can matter are listed.
        has_checkpoint = self.state not in LEAVE_STATES and any(checkpoints.glob("step_*.pt"))
        return action_for(self.state, has_checkpoint=has_checkpoint)


def action_for(state: str, *, has_checkpoint: bool) -> str:
    """Return what a launch does with a run in this state: `leave`, `start` or `resume`."""
    if state in LEAVE_STATES:
        return "leave"
    return "resume" if has_checkpoint else "start"


def plan(rows: Sequence[tuple[Config, list[str]]], states: Mapping[Path, Mapping[str, RunState]]) -> list[PlannedRun]:
    """Plan the runs of the rows; rows with the same run appear once.

    Args:
        rows: Configuration and overrides of each run.
        states: States of the runs that exist, by sweep folder and run name.
    """
    existing = {folder: {signature_of(name) for name in of_folder} for folder, of_folder in states.items()}
    planned: dict[Path, PlannedRun] = {}
    for config, overrides in rows:
        folder = sweep_folder_of(config)
        run_signature = signature(config)
        # The disk is only searched for signatures that exist: 1,000 searches through 1,000 folders would take long.
        is_known = run_signature in existing.get(folder, ()) or config.force
        path = find_folder(config)[0] if is_known else folder / folder_name(config, run_signature)
        state = states.get(folder, {}).get(path.name)
        row = Row(path.name, to_plain(config), overrides)
        planned.setdefault(path, PlannedRun(row, folder, state.state if state else "new"))
    return list(planned.values())


def signature_of(folder_name: str) -> str:
    """Return the signature at the end of a run folder's name; empty if there is none."""
    found = re.search(r"-([0-9a-f]{8})(-r\d+)?$", folder_name)
    return found[1] if found else ""


def sweep_folder_of(config: Config) -> Path:
    """Return the folder of the sweep that a run belongs to."""
    return Path(config.runs) / config.sweep
