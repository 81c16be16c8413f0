"""Reading of run folders for the tables: status, settings and metrics. What cannot be read is skipped and reported."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from htc.config.signature import in_signature, omitted_defaults
from htc.errors import UserError
from htc.runs.json_values import mapping, whole_number
from htc.runs.record import RunRecord

METRICS = {
    "box_AP": ("bbox", "AP"),
    "mask_AP": ("segm", "AP"),
    "mask_AP50": ("segm", "AP50"),
    "mask_AP75": ("segm", "AP75"),
    "mask_APs": ("segm", "APs"),
    "mask_APm": ("segm", "APm"),
    "mask_APl": ("segm", "APl"),
}
"""Metrics of the tables: each with its section of results.json and its key there."""
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
    sweep: str
    ended: datetime = LONG_AGO
    """Time of the end, or of the start where there is no end."""
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that can change the result, by dotted key, without the seed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics by the keys of METRICS, in percent; NaN where there is no ground truth."""
    fps: float = math.nan
    conditions: str = ""
    """Hardware and settings of the fps measurement, in words."""
    images: int | None = None
    """Number of images evaluated."""

    @property
    def group(self) -> str:
        """A string that is equal for runs that differ in the seed only."""
        return json.dumps([self.settings, self.images], sort_keys=True, default=str)


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Return all runs at any depth below `root`, sorted by folder, and a sentence for each run that was skipped.

    Raises UserError where `root` is not a folder.
    """
    if not root.is_dir():
        raise UserError(f"runs={root} is not a folder: name the folder that holds the runs, as in runs=runs.")
    runs: list[Run] = []
    complaints: list[str] = []
    for folder in run_folders(root, complaints):
        try:
            runs.append(read_run(folder, root))
        except UnreadableError as reason:
            complaints.append(f"skipped {reason}")
    return sorted(runs, key=lambda run: run.folder), complaints


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
    sweeps = sorted({run.sweep for run in runs})
    if sweep not in sweeps:
        nearest = difflib.get_close_matches(sweep, sweeps, n=1, cutoff=0.0)
        hint = f"did you mean sweep={nearest[0]}?" if nearest else "there are no runs at all."
        raise UserError(f"sweep={sweep} has no run below {root}: {hint}")
    return [run for run in runs if run.sweep == sweep]


def read_run(folder: Path, root: Path) -> Run:
    """Return one run. Raises UnreadableError for a damaged, foreign or missing file.

    Only run.json is read of an unfinished run.
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
        sweep=record.sweep if record.sweep is not None else folder.parent.name,
        ended=parse_time(record.end or record.start),
    )
    if status != "done":
        return base
    settings = read_settings(folder / "config.yaml")
    return Run(
        **{key: getattr(base, key) for key in ("folder", "status", "sweep", "ended")},
        seed=settings.pop("seed"),
        settings={key: value for key, value in settings.items() if in_signature(key)},
        **read_results(folder / "results.json"),
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a config.yaml by dotted key. Raises UnreadableError."""
    try:
        config = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it is not complete YAML.") from error
    # A run that is older than such a key is the same as one with the key's default.
    settings = flatten(omitted_defaults()) | flatten(mapping(config))
    for key in ("model.name", "backbone.name", "data.name"):
        if not isinstance(settings.get(key), str):
            raise UnreadableError(f"{path}: it has no {key}, so it is not the configuration of a run.")
    if whole_number(settings.get("seed")) is None:
        raise UnreadableError(f"{path}: its seed is {settings.get('seed')!r}, not a whole number.")
    return settings


def read_results(path: Path) -> dict[str, Any]:
    """Return the fields `metrics`, `fps`, `conditions` and `images` of a Run from results.json.

    Raises UnreadableError.
    """
    results = read_json(path)
    metrics = {}
    for metric, (section, key) in METRICS.items():
        if not isinstance(results.get(section), dict):
            raise UnreadableError(f"{path}: it has no {section} metrics.")
        metrics[metric] = 100 * measured_number(results[section].get(key), f"{section}.{key}", path, at_most=1.0)
    speed = mapping(results.get("speed"))
    return {
        "metrics": metrics,
        "fps": measured_number(speed.get("fps"), "speed.fps", path),
        "conditions": describe_conditions(mapping(speed.get("conditions"))),
        "images": whole_number(results.get("images_evaluated")),
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


def flatten(node: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by dotted key; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def parse_time(text: Any) -> datetime:
    """Return the time of an ISO 8601 string, which is in UTC unless it names a zone; LONG_AGO for any other value."""
    try:
        time = datetime.fromisoformat(text)
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
