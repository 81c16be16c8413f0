"""Plan of a launch: for each requested run, whether to leave it as it is, start it, resume it or evaluate it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from htc.config.evaluation import evaluation_name
from htc.config.schema import Config
from htc.config.signature import identity, signature, to_plain
from htc.launch.status.states import run_states
from htc.launch.submission import Row
from htc.runs.folder import RunFolder, find_folder, folder_name
from htc.runs.parent import find_parent, resolve_parent
from htc.runs.pool import UNNAMED, SelectedRun, run_names, signature_of

LEAVE_STATES = ("done", "running", "queued", "unknown")
"""States of runs that a launch does not start."""
SUSPECT_KEYS = (
    "data.root", "data.train.images", "data.train.annotations", "data.train.stuff", "checkpoint.file",
    "backbone.weights", "channels_last", "deterministic",
)  # fmt: skip
"""Settings in which two runs of one experiment rarely differ on purpose."""


@dataclass(frozen=True)
class RequestedRun:
    """A run that a launch asks for: a row of a sweep, or one combination of the command line."""

    config: Config
    overrides: list[str]
    """Arguments of `python -m htc.run` that start the run."""
    label: str | None = None
    """Label of the row."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """Options of the launcher for this row alone."""
    given: Sequence[str] = ()
    """Those overrides that are not the row's own."""
    run: str | None = None
    """Name of the run's folder, such as that of a repeated run; None: it follows from the configuration."""

    @property
    def pool(self) -> Path:
        return Path(self.config.runs)

    @property
    def sweep(self) -> str:
        return self.config.sweep or UNNAMED


@dataclass
class PlannedRun:
    """One run of a plan; several requests may ask for the same one."""

    row: Row
    pool: Path
    sweep: str
    """Name of the first sweep that asks for the run."""
    state: str
    """One of htc.launch.status.states.STATES, or `new`."""
    requests: list[RequestedRun]
    trained: bool = False
    remark: str = ""
    """What the user should know before the run is started."""

    @property
    def label(self) -> str:
        """The labels of the rows that ask for the run."""
        return ", ".join(dict.fromkeys(request.label for request in self.requests if request.label is not None))

    @property
    def action(self) -> str:
        """What the launch does with the run: `leave`, `start`, `resume` or `evaluate`."""
        checkpoints = self.pool / self.row.folder / "checkpoints"
        # Listing the folders of thousands of runs takes time, so only those that can matter are listed.
        needs_look = self.state not in LEAVE_STATES and not self.trained
        has_checkpoint = needs_look and any(checkpoints.glob("step_*.pt"))
        return action_for(self.state, has_checkpoint=has_checkpoint, trained=self.trained)

    def selected(self, request: RequestedRun) -> SelectedRun:
        """Return the row of the sweep that asks for this run."""
        return SelectedRun(
            self.row.folder, request.label, self.row.evaluation, request.overrides, dict(request.launcher),
            list(request.given),
        )  # fmt: skip


def action_for(state: str, *, has_checkpoint: bool, trained: bool = False) -> str:
    """Return what a launch does with a run in this state: `leave`, `start`, `resume` or `evaluate`."""
    if state in LEAVE_STATES:
        return "leave"
    if trained:
        return "evaluate"
    return "resume" if has_checkpoint else "start"


def plan(pool: Path, requests: Sequence[RequestedRun], *, need_slurm: bool = False) -> list[PlannedRun]:
    """Plan the runs of the requests; requests for the same run and evaluation are planned once.

    Args:
        pool: Folder of all runs.
        requests: What is asked for, all with `runs` at this pool.
        need_slurm: Raise UserError if Slurm cannot be asked which jobs exist.
    """
    names = list(run_names(pool))
    by_signature = defaultdict(list)
    for name in names:
        by_signature[signature_of(name)].append(name)
    found: dict[tuple[str, str], list[RequestedRun]] = {}
    rows: dict[tuple[str, str], Row] = {}
    trained: set[str] = set()
    for request in requests:
        config = request.config
        resolve_parent(config)
        run_signature = signature(config)
        # The disk is only searched for signatures that exist: 1,000 searches through 1,000 folders would take long.
        folder, data = folder_name(config, run_signature), None
        if of_signature := by_signature.get(run_signature):
            folder = request.run or find_folder(config, of_signature).name
            record = RunFolder(pool / folder).read()
            if record.status == "done":
                trained.add(folder)
                data = record.evaluated_data or None
        elif config.continue_from is not None:
            find_parent(config)
        row = Row(folder, to_plain(config), request.overrides, evaluation_name(config, data), request.label)
        key = row.folder, row.evaluation
        rows.setdefault(key, row)
        found.setdefault(key, []).append(request)
    selected = [SelectedRun(folder, evaluation=evaluation) for folder, evaluation in rows]
    states, _ = run_states(pool, selected, need_slurm=need_slurm)
    similar = _similar_runs(pool, names) if any(state.state == "missing" for state in states) else {}
    planned = []
    for (key, row), state in zip(rows.items(), states, strict=True):
        is_new = state.state == "missing"
        each = PlannedRun(row, pool, found[key][0].sweep, "new" if is_new else state.state, found[key])
        each.trained = row.folder in trained
        if is_new:
            each.remark = _similar_remark(identity(row.config), similar)
        planned.append(each)
    return planned


Experiment = frozenset[tuple[str, str]]
"""The settings of a run but for the SUSPECT_KEYS, hashable."""


def _experiment(settings: Mapping[str, Any]) -> Experiment:
    return frozenset((key, repr(value)) for key, value in settings.items() if key not in SUSPECT_KEYS)


def _similar_runs(pool: Path, names: Sequence[str]) -> dict[Experiment, tuple[str, dict[str, Any]]]:
    """Return name and identity of the done runs, by their settings but for the SUSPECT_KEYS."""
    found = {}
    for name in names:
        record = RunFolder(pool / name).read()
        if record.status == "done" and record.identity:
            found[_experiment(record.identity)] = name, record.identity
    return found


def _similar_remark(settings: Mapping[str, Any], similar: Mapping[Experiment, tuple[str, Mapping[str, Any]]]) -> str:
    """Return `differs from done run X only in data.root`, if there is such a run; else nothing."""
    if (match := similar.get(_experiment(settings))) is None:
        return ""
    name, other = match
    keys = [key for key in SUSPECT_KEYS if settings.get(key) != other.get(key)]
    values = "; ".join(f"{key}: {settings.get(key)}, there {other.get(key)}" for key in keys)
    return f"differs from done run {name} only in {', '.join(keys)} ({values})"
