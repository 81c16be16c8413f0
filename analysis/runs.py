"""Reading of run folders for the tables: status, settings and metrics. What cannot be read is skipped and reported."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from analysis.run_index import RunIndex, stamps_of
from htc.config.evaluation import UNUSED_KEYS
from htc.config.schema import Affects, EvalConfig
from htc.config.signature import GENERATED_DATA, affected, with_defaults
from htc.errors import UserError
from htc.runs.evaluations import evaluation_folder, evaluation_names
from htc.runs.json_values import mapping, text, whole_number
from htc.runs.pool import read_rows, sweep_names
from htc.runs.record import Parent, RunRecord

METRICS = {
    "box_AP": ("bbox", "AP"),
    "mask_AP": ("segm", "AP"),
    "mask_AP50": ("segm", "AP50"),
    "mask_AP75": ("segm", "AP75"),
    "mask_APs": ("segm", "APs"),
    "mask_APm": ("segm", "APm"),
    "mask_APl": ("segm", "APl"),
}
"""Metrics of the paper's tables: each with its section of results.json and its key there."""
SIZES = ("AP50", "AP75", "APs", "APm", "APl")
"""Metrics besides AP, of boxes as of masks."""
ALL_METRICS = METRICS | {f"box_{name}": ("bbox", name) for name in SIZES}
"""Metrics that are read of a run: also those of boxes that the paper's tables do not have."""
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for a time that is not recorded: such a run is older than any other."""


class UnreadableError(Exception):
    """A file of a run cannot be used. The message names the file and the reason."""


@dataclass(frozen=True)
class Run:
    """One run folder. Only a finished run has values in the fields from `seed` on."""

    folder: str
    """Path relative to the folder of runs, with forward slashes."""
    status: str
    sweeps: tuple[str, ...] = ()
    """Names of the sweeps that select the run."""
    ended: datetime = LONG_AGO
    """Time of the end, or of the start where there is no end."""
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that can change the result, by dotted key, without the seed; and the content of the data, `data.content`
    and `data.val.content`, in place of their folder where it is known."""
    root: str = ""
    """Folder of the data."""
    code: str = ""
    """Commit of the code that trained the run, and whether it had uncommitted changes; empty where it is not known."""
    continues: str = ""
    """Which run this one continues, and how both compare with one long run, in words; empty for other runs."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics by the keys of ALL_METRICS, in percent; NaN where there is no ground truth."""
    fps: float = math.nan
    conditions: str = ""
    """Hardware and settings of the fps measurement, in words."""
    images: int | None = None
    """Number of images evaluated."""
    annotations: str = ""
    """SHA-256 of the annotation file of the evaluation; empty where it is not recorded."""

    @cached_property
    def group(self) -> str:
        """A string that is equal for runs that differ in the seed only."""
        return json.dumps([self.settings, self.images], sort_keys=True, default=str)


def read_runs(root: Path, evaluation: str = "") -> tuple[list[Run], list[str]]:
    """Return all runs at any depth below `root`, sorted by folder, and a sentence for each run that was skipped.

    Args:
        root: folder that holds run folders.
        evaluation: name of the evaluation whose results are read; empty for `default_evaluation`.

    Raises:
        UserError: where `root` is not a folder, or no finished run has such an evaluation.
    """
    if not root.is_dir():
        raise UserError(f"runs={root} is not a folder: name the folder that holds the runs, as in runs=runs.")
    runs: list[Run] = []
    complaints: list[str] = []
    folders = list(run_folders(root, complaints))
    chosen = evaluation or default_evaluation(folders)
    if evaluation and folders and not any(evaluation in evaluation_names(folder) for folder in folders):
        names = sorted({name for folder in folders for name in evaluation_names(folder)})
        raise UserError(
            f"eval={evaluation}: no run below {root} has this evaluation; there are {', '.join(names) or 'none'}."
        )
    sweeps = sweeps_of_folders(folders)
    index = RunIndex(root)
    for folder in folders:
        try:
            run = read_indexed_run(folder, root, chosen, index)
        except UnreadableError as reason:
            complaints.append(f"skipped {reason}")
        else:
            runs.append(replace(run, sweeps=sweeps.get(folder, ())))
    index.save()
    return sorted(runs, key=lambda run: run.folder), complaints


def default_evaluation(folders: Iterable[Path]) -> str:
    """Return the evaluation that tables show: `default`, or the only one that the runs have.

    Raises UserError where there are several and none is `default`: results of different evaluations are never mixed.
    """
    names = sorted({name for folder in folders for name in evaluation_names(folder)})
    if EvalConfig.name in names or not names:
        return EvalConfig.name
    if len(names) > 1:
        raise UserError(f"the runs have the evaluations {', '.join(names)}: choose one, as in eval={names[0]}.")
    return names[0]


def sweeps_of_folders(folders: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """Return the names of the sweeps that select each run folder."""
    found: dict[Path, tuple[str, ...]] = {}
    for pool in {folder.parent for folder in folders}:
        for sweep in sweep_names(pool):
            for run in dict.fromkeys(row.run for row in read_rows(pool, sweep)):
                found[pool / run] = (*found.get(pool / run, ()), sweep)
    return found


def run_folders(root: Path, complaints: list[str]) -> Iterator[Path]:
    """Yield the folders that hold a run.json, each once; links are followed, and folders inside a run are not searched.

    Sentences about folders that cannot be read are appended to `complaints`.
    """
    seen: set[str] = set()
    walk = os.walk(
        root, followlinks=True, onerror=lambda error: complaints.append(f"skipped {error.filename}: {error.strerror}.")
    )
    for path, folders, files in walk:
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if "run.json" in files:
            folders.clear()
            yield Path(path)
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: (Path(path, name).is_symlink(), name),
        )


def select_sweep(runs: list[Run], sweep: str, root: Path) -> list[Run]:
    """Return the runs of one sweep. Raises UserError, with the most similar name of a sweep, where there are none."""
    sweeps = sorted({name for run in runs for name in run.sweeps})
    if sweep not in sweeps:
        nearest = difflib.get_close_matches(sweep, sweeps, n=1, cutoff=0.0)
        hint = f"did you mean sweep={nearest[0]}?" if nearest else "there are no sweeps at all."
        raise UserError(f"sweep={sweep} has no run below {root}: {hint}")
    return [run for run in runs if sweep in run.sweeps]


def read_indexed_run(folder: Path, root: Path, evaluation: str, index: RunIndex) -> Run:
    """Return one run as `read_run` does, from the index where its files have not changed."""
    files = [folder / "run.json", folder / "config.yaml", evaluation_folder(folder, evaluation).results_file]
    key = f"{folder.relative_to(root).as_posix()} {evaluation}"
    if (known := index.find(key, files)) is not None:
        return Run(**{**known, "ended": datetime.fromisoformat(known["ended"])})
    stamps = stamps_of(files)
    run = read_run(folder, root, evaluation)
    values = {item.name: getattr(run, item.name) for item in fields(run)}
    index.keep(key, files, stamps, {**values, "ended": run.ended.isoformat(), "sweeps": []})
    return run


def read_run(folder: Path, root: Path, evaluation: str) -> Run:
    """Return one run, without its sweeps. Only run.json is read of an unfinished run.

    Args:
        folder: the run's folder.
        root: folder that the run's path is relative to.
        evaluation: name of the evaluation whose results are read.

    Raises:
        UnreadableError: for a damaged, foreign or missing file.
    """
    record_path = folder / "run.json"
    record = RunRecord.from_json(read_json(record_path))
    status = record.status
    if status is None:
        raise UnreadableError(f"{record_path}: it has no status, so it is not the record of a run.")
    name = folder.relative_to(root).as_posix()
    base = Run(
        folder=folder.resolve().name if name == "." else name,
        status=status,
        ended=parse_time(record.end or record.start),
    )
    if status != "done":
        return base
    settings = read_settings(folder / "config.yaml")
    if record.parent is not None:
        # Seeds that continue runs of one configuration are comparable.
        settings["continue_from"] = record.parent.settings
    if not evaluation_folder(folder, evaluation).complete:
        raise UnreadableError(
            f"{folder}: it has no evaluation '{evaluation}', which this command makes: "
            f"python -m htc.evaluate run={folder} eval={evaluation}."
        )
    results = read_json(evaluation_folder(folder, evaluation).results_file)
    return replace(
        base,
        seed=settings.pop("seed"),
        settings=comparable_settings(settings, mapping(results.get("settings")), content_of(record, results)),
        root=str(settings["data.root"]),
        code=describe_code(record.git),
        continues=describe_parent(record.parent),
        **read_results(results, evaluation_folder(folder, evaluation).results_file),
    )


def describe_parent(parent: Parent | None) -> str:
    """Return which run a run continues, and what makes them differ from one long run; nothing for no parent."""
    if parent is None:
        return ""
    unequal = f"; unlike one run, {'; '.join(parent.unequal)}" if parent.unequal else ""
    return f"`{parent.run}` after step {parent.step}{unequal}"


def comparable_settings(settings: dict[str, Any], evaluated: dict[str, Any], content: dict[str, str]) -> dict[str, Any]:
    """Return the settings that can change a result, by dotted key.

    Args:
        settings: all settings of the run, by dotted key.
        evaluated: settings of the evaluation, which replace those of the run.
        content: hashes of the data; they replace the folder of the data.
    """
    kept = {key: value for key, value in settings.items() if affected(key) is not Affects.nothing}
    kept |= evaluated
    for key in UNUSED_KEYS:
        kept.pop(key, None)
    if settings["data.name"] == GENERATED_DATA:
        # The content follows from other settings.
        content = {}
        kept.pop("data.root", None)
    elif "data.content" in content:
        kept.pop("data.root", None)
    return kept | content


def content_of(record: RunRecord, results: dict[str, Any]) -> dict[str, str]:
    """Return short hashes of the training data and of the evaluated data, as far as they are recorded."""
    found = {"data.content": record.data.get("train"), "data.val.content": results.get("data")}
    return {
        key: hashlib.sha256(json.dumps(value if isinstance(value, dict) else asdict(value)).encode()).hexdigest()[:8]
        for key, value in found.items()
        if value
    }


def describe_code(git: dict[str, Any] | None) -> str:
    """Return `1a2b3c4`, or `1a2b3c4 with uncommitted changes`; an empty string where the commit is not known."""
    commit = mapping(git).get("commit")
    if not isinstance(commit, str):
        return ""
    return commit[:7] + (" with uncommitted changes" if mapping(git).get("dirty") else "")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a config.yaml by dotted key. Raises UnreadableError."""
    try:
        config = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it is not complete YAML.") from error
    # A run that is older than a key is the same as one with the key's default.
    settings = with_defaults(mapping(config))
    for key in ("model.name", "backbone.name", "data.name", "data.root"):
        if not isinstance(settings.get(key), str) or settings[key] == MISSING:
            raise UnreadableError(f"{path}: it has no {key}, so it is not the configuration of a run.")
    if whole_number(settings.get("seed")) is None:
        raise UnreadableError(f"{path}: its seed is {settings.get('seed')!r}, not a whole number.")
    return settings


def read_results(results: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return fields of a Run, from `metrics` on, that are in the content of results.json.

    Raises UnreadableError, which names the file `path`.
    """
    metrics = {}
    for metric, (section, key) in ALL_METRICS.items():
        if not isinstance(results.get(section), dict):
            raise UnreadableError(f"{path}: it has no {section} metrics.")
        metrics[metric] = 100 * measured_number(results[section].get(key), f"{section}.{key}", path, at_most=1.0)
    speed = mapping(results.get("speed"))
    return {
        "metrics": metrics,
        "fps": measured_number(speed.get("fps"), "speed.fps", path),
        "conditions": describe_conditions(mapping(speed.get("conditions"))),
        "images": whole_number(results.get("images_evaluated")),
        "annotations": text(mapping(results.get("data")).get("annotations")) or "",
    }


def measured_number(value: Any, name: str, path: Path, at_most: float = math.inf) -> float:
    """Return a measured number as a float.

    Args:
        value: a value of results.json. Null, COCO's -1 (no ground truth) and numbers that are not finite become NaN.
        name: its dotted key, for the message.
        path: the file, for the message.
        at_most: the largest valid number.

    Raises:
        UnreadableError: for a value that is not a number, or is too large.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or value > at_most:
        expected = "a number" if at_most == math.inf else f"a number up to {at_most:g}"
        raise UnreadableError(f"{path}: its {name} is {value!r}, not {expected}.")
    return float(value) if math.isfinite(value) and value >= 0 else math.nan


def describe_conditions(conditions: dict[str, Any]) -> str:
    """Return `NVIDIA V100, 8 threads, fp32, batch size 1`; an empty string where nothing was recorded."""
    rest = {key: value for key, value in conditions.items() if value is not None}
    words = []
    for key, template in (("device", "{}"), ("threads", "{} threads"), ("precision", "{}")):
        if (value := rest.pop(key, None)) is not None:
            words.append("1 thread" if key == "threads" and value == 1 else template.format(value))
    for key in sorted(rest):
        value = rest[key] if isinstance(rest[key], str) else json.dumps(rest[key])
        words.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(words)


def parse_time(value: Any) -> datetime:
    """Return the time of an ISO 8601 string, which is in UTC unless it names a zone; LONG_AGO for any other value."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return LONG_AGO
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises UnreadableError."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it is not complete JSON.") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"{path}: it is not a JSON object.")
    return content


def read_text(path: Path) -> str:
    """Return the text of a file. Raises UnreadableError where the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}.") from error
