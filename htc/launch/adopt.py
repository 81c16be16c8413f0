"""Bring runs of the old layout, `runs/<sweep>/<name>-<signature>/`, into the pool.

The old layout had a folder per sweep, `results.json` and `predictions/` in the run's folder, and signatures that also
covered evaluation settings.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from htc.config.compose import recorded_config
from htc.config.evaluation import evaluated_data, evaluation_name, evaluation_settings, reevaluation_name
from htc.config.folders import group_options
from htc.config.schema import Config
from htc.config.signature import identity, signature, to_plain
from htc.errors import UserError
from htc.runs.evaluations import EvaluationFolder
from htc.runs.files import read_object, write_json
from htc.runs.folder import RunFolder, folder_name
from htc.runs.json_values import mapping, text
from htc.runs.lock import is_in_use
from htc.runs.pool import SelectedRun, change_rows
from htc.runs.record import RunRecord, Training

OLD_RESULTS = "results.json"
OLD_PREDICTIONS = "predictions"
NO_SWEEP = "single"
"""Folder of the old layout for runs that belonged to no sweep."""


@dataclass(frozen=True)
class OldRun:
    """A run of the old layout."""

    path: Path
    sweep: str
    config: Config
    record: RunRecord

    @property
    def done(self) -> bool:
        return self.record.status == "done" and (self.path / OLD_RESULTS).is_file()


def adopt(old: Path, pool: Path, *, dry_run: bool = False) -> None:
    """Move the runs below an old folder into the pool, and record the sweeps that selected them.

    A run whose training another one of the same signature repeats is moved beside it, as `-r2`; if its final weights
    are the same, only its evaluations are kept.

    Args:
        old: Folder of runs in the old layout.
        pool: Folder of all runs.
        dry_run: Print what would be done, and change nothing.

    Raises:
        UserError: There are no such runs, or one of them is in use.
    """
    complaints: list[str] = []
    runs = sorted(old_runs(old, complaints), key=lambda run: (not run.done, run.path))
    for complaint in complaints:
        print(f"left where it is: {complaint}")
    if not runs and not complaints:
        raise UserError(f"{old} holds no runs of the old layout, {old}/SWEEP/NAME-SIGNATURE: name the folder `runs`.")
    in_use = [run.path for run in runs if is_in_use(run.path)]
    if in_use:
        raise UserError(f"{in_use[0]} is in use: wait for that run or stop it, and adopt again.")
    places: dict[str, list[tuple[Path, Path]]] = {}
    for run in runs:
        run_signature = signature(run.config)
        if run_signature not in places:
            found = sorted(path for path in pool.glob(f"*-{run_signature}*") if path.is_dir())
            places[run_signature] = [(path, path) for path in found]
        target, merged = find_place(run, pool, places[run_signature])
        verb = "would become" if dry_run else "is now"
        print(f"{run.path} {verb} {'an evaluation of ' if merged else ''}{target}")
        if not merged:
            places[run_signature].append((target, run.path if dry_run else target))
        if not dry_run:
            adopt_run(run, target, pool, merged=merged)


def old_runs(old: Path, complaints: list[str]) -> Iterator[OldRun]:
    """Yield the runs of the old layout; sentences about those that cannot be read are appended to `complaints`."""
    for file in sorted(old.glob("*/*/run.json")):
        path = file.parent
        if path.parent.name.startswith(".") or path.name.startswith("."):
            continue
        folder = RunFolder(path)
        content = read_object(file)
        if "sweep" not in content:
            complaints.append(f"{path}: its run.json is not of the old layout.")
            continue
        try:
            config = with_eval_name(recorded_config(folder.read_config(), []))
        except (UserError, OmegaConfBaseException, HydraException) as error:
            reason = error.sentence if isinstance(error, UserError) else str(error).split("\n")[0]
            complaints.append(f"{path}: its config.yaml cannot be used: {reason}")
            continue
        sweep = text(content.get("sweep")) or path.parent.name
        yield OldRun(path, sweep, config, RunRecord.from_json({k: v for k, v in content.items() if k != "sweep"}))


def with_eval_name(config: Config) -> Config:
    """Return the configuration with the name of the evaluation settings that it has: old ones had no name."""
    for name in group_options("eval"):
        named = replace(config, eval=replace(config.eval, name=name))
        if evaluation_name(named) == name:
            return named
    return config


def find_place(run: OldRun, pool: Path, taken: Sequence[tuple[Path, Path]]) -> tuple[Path, bool]:
    """Return the folder that a run gets, and whether an equal run is there, which only gets its evaluations.

    Args:
        run: The run.
        pool: Folder of all runs.
        taken: Folders of the pool with the run's signature, each with where its files are now.
    """
    if not taken:
        return pool / folder_name(run.config, signature(run.config)), False
    for target, files in taken:
        if run.done and have_equal_weights(run.path, files):
            return target, True
    first = re.sub(r"-r\d+$", "", taken[0][0].name)
    names = {target.name for target, _ in taken}
    repetition = 2
    while f"{first}-r{repetition}" in names:
        repetition += 1
    return pool / f"{first}-r{repetition}", False


def have_equal_weights(first: Path, second: Path) -> bool:
    """Return whether the newest checkpoints of two runs have the same step and the same weights."""
    import torch

    from htc.checkpoint.files import load_newest

    ours, theirs = (load_newest(run / "checkpoints") for run in (first, second))
    if ours is None or theirs is None or ours.step != theirs.step:
        return False
    a, b = ours.evaluated_weights, theirs.evaluated_weights
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def adopt_run(run: OldRun, target: Path, pool: Path, *, merged: bool) -> None:
    """Bring a run into the new form where it is, and move it. If this is interrupted, it can be done again.

    Args:
        run: The run.
        target: Its new folder.
        pool: Folder of all runs.
        merged: Whether only the evaluations are moved, into the run that is in `target`.
    """
    new_form(run)
    if merged:
        for evaluation in (run.path / "evaluations").iterdir():
            place = target / "evaluations" / evaluation.name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(evaluation, place)
        shutil.rmtree(run.path)
    else:
        pool.mkdir(parents=True, exist_ok=True)
        shutil.move(run.path, target)
        RunFolder(target).write(run.record)
    if run.sweep != NO_SWEEP:
        row = SelectedRun(target.name, None, evaluation_name(run.config), (run.record.command or "").split()[3:])
        change_rows(pool, run.sweep, lambda rows: rows if row.run in {each.run for each in rows} else [*rows, row])


def new_form(run: OldRun) -> None:
    """Bring the files of a run into the new form, where it is."""
    plain = to_plain(run.config)
    results = RunFolder(run.path)
    old_results = mapping(read_object(run.path / OLD_RESULTS))
    for folder in sorted((run.path / "evaluations").glob("*/")):
        _new_evaluation(run, folder)
    if old_results:
        out = EvaluationFolder(run.path / "evaluations" / evaluation_name(run.config))
        _move_predictions(run.path / OLD_PREDICTIONS, out.path)
        out.write({**old_results, "settings": evaluation_settings(plain)})
        (run.path / OLD_RESULTS).unlink()
    with results.config_file.open("w", encoding="utf-8") as file:
        yaml.safe_dump(plain, file, sort_keys=False, allow_unicode=True)
    record = run.record
    record.signature, record.identity = signature(run.config), identity(plain)
    record.evaluated_data = evaluated_data(plain)
    record.training = record.training or Training.from_json(old_results)
    # With the key `sweep`, it is still a run to adopt: if this is interrupted, adopting again continues.
    write_json(results.run_file, {**record.to_json(), "sweep": run.sweep})


def _new_evaluation(run: OldRun, folder: Path) -> None:
    """Rename a later evaluation by its settings, and move its predictions."""
    content = mapping(read_object(folder / OLD_RESULTS))
    recorded: dict[str, Any] = mapping(content.get("config"))
    if not recorded:
        return
    config = with_eval_name(recorded_config(recorded, []))
    out = EvaluationFolder(folder.with_name(reevaluation_name(config, to_plain(run.config))))
    if out.path.exists():
        return
    _move_predictions(folder / OLD_PREDICTIONS, folder)
    EvaluationFolder(folder).write({**content, "settings": evaluation_settings(to_plain(config))})
    folder.rename(out.path)


def _move_predictions(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        file.replace(target / file.name)
    if source.is_dir() and not any(source.iterdir()):
        source.rmdir()
