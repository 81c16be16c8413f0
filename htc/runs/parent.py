"""The finished run that another one continues, `continue=RUN`: it is found, and what may differ is checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.config.schema import Config
from htc.config.signature import hash_of, identity, to_plain, with_defaults
from htc.errors import UserError, nearest
from htc.runs.folder import RunFolder
from htc.runs.pool import run_names, signature_of
from htc.runs.record import Parent, RunRecord

KEY = "continue_from"
SCHEDULE = "schedule."
FIXED = ("schedule.optimizer", "schedule.batch_size", "schedule.accumulate")
"""Settings of the schedule that the state of the optimiser and the position in the data belong to."""
SHOWN_DIFFERENCES = 3


@dataclass
class ParentRun:
    """A finished run that another one continues."""

    folder: RunFolder
    record: RunRecord
    step: int
    """Step of its last checkpoint."""
    checkpoint: Path
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as config.yaml holds it."""

    def to_record(self, unequal: list[str]) -> Parent:
        """Return the entry of the other run's run.json.

        unequal: what makes the two together differ from one long run, in words.
        """
        settings = {key: value for key, value in identity(self.config).items() if key != "seed"}
        return Parent(self.folder.path.name, signature_of(self.folder.path.name), self.step, hash_of(settings), unequal)


def resolve_parent(config: Config) -> None:
    """Replace `continue_from` by the complete name of the run. Raises UserError where it names none, or several."""
    if config.continue_from is None:
        return
    pool = Path(config.runs)
    given = Path(config.continue_from)
    name = given.name if given.parent.resolve() == pool.resolve() else str(given)
    if (pool / name / "run.json").is_file() and "/" not in name:
        config.continue_from = name
        return
    names = sorted(run_names(pool))
    found = [each for each in names if each.startswith(name) or each.endswith(f"-{name}")]
    if len(found) == 1:
        config.continue_from = found[0]
    elif found:
        raise UserError(f"continue={name} could be {', '.join(found[:5])}: give the complete name of one.")
    elif not signature_of(name):
        raise UserError(f"continue={name} is not a run in {pool}{nearest(name, names)}.")
    # A complete name without a folder: a run that has checkpoints of its own does not need its parent any more.


def find_parent(config: Config) -> ParentRun:
    """Return the run that `continue_from` names, which `resolve_parent` has completed.

    Raises UserError where it cannot be continued with this configuration: it is not done, its last checkpoint is
    deleted, or more than the schedule differs.
    """
    name = config.continue_from
    assert name is not None
    folder = RunFolder(Path(config.runs) / name)
    record = folder.read(strict=True)
    if record.status != "done":
        state = f"its status is {record.status}" if record.status else "there is no such run"
        raise UserError(f"continue={name}: {state}; only a run that is done can be continued.")
    recorded = folder.read_config()
    refuse_other_settings(name, recorded, config, record.command)
    steps = {int(path.stem.removeprefix("step_")): path for path in folder.checkpoints.glob("step_*.pt")}
    step = record.training.iterations if record.training is not None else max(steps, default=None)
    if step is not None and config.schedule.iterations is not None and config.schedule.iterations <= step:
        raise UserError(
            f"continue={name}: schedule.iterations={config.schedule.iterations} counts the {step} steps of that run, "
            "too: set more."
        )
    if step is None or step not in steps:
        raise UserError(f"continue={name}: the checkpoint of its last step is deleted, so it cannot be continued.")
    return ParentRun(folder, record, step, steps[step], recorded)


def refuse_other_settings(name: str, recorded: dict[str, Any], config: Config, command: str | None) -> None:
    """Raise UserError where more than the schedule differs between a run and the one that continues it.

    Args:
        name: name of the run.
        recorded: its configuration.
        config: configuration of the run that continues it.
        command: the command that started it.
    """
    before, after = identity(recorded), identity(to_plain(config))
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key) and key != KEY)
    if fixed := [key for key in keys if key in FIXED]:
        raise UserError(
            f"continue={name}: {fixed[0]} must stay as it was: the state of the optimiser and the position in the data "
            "belong to it."
        )
    if others := [key for key in keys if not key.startswith(SCHEDULE)]:
        here, there = with_defaults(to_plain(config)), with_defaults(recorded)
        shown = [f"{key} ({_word(here[key])}, there {_word(there[key])})" for key in others[:SHOWN_DIFFERENCES]]
        more = f" and {len(others) - len(shown)} more" if len(others) > len(shown) else ""
        hint = f" It was started by `{command}`: add to that." if command else ""
        raise UserError(
            f"continue={name}: only the schedule may differ from that run, not {', '.join(shown)}{more}.{hint}"
        )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
