"""Run folders as the tables need them: status, flat settings, metrics. Whatever cannot be read is skipped and said."""

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
from htc.runs.record import RunRecord

# Metric of the tables -> (section of results.json, key in it).
METRICS = {
    "box_AP": ("bbox", "AP"),
    "mask_AP": ("segm", "AP"),
    "mask_AP50": ("segm", "AP50"),
    "mask_AP75": ("segm", "AP75"),
    "mask_APs": ("segm", "APs"),
    "mask_APm": ("segm", "APm"),
    "mask_APl": ("segm", "APl"),
}
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableError(Exception):
    """One file of a run cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Run:
    """One run folder. `settings`, `seed`, `metrics` and `fps` are filled for finished runs only."""

    folder: str
    """Relative to the folder of runs, with forward slashes."""
    status: str
    sweep: str
    ended: datetime = LONG_AGO
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> value: what can change the result, without the seed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Keys of METRICS in percent; NaN where there is no ground truth."""
    fps: float = math.nan
    conditions: str = ""
    """What fps was measured under, in words."""
    images: int | None = None
    """Images evaluated."""

    @property
    def group(self) -> str:
        """The same for runs that differ in nothing but the seed."""
        return json.dumps([self.settings, self.images], sort_keys=True, default=str)


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """All runs at any depth below `root`, in the order of their folders, and a sentence for each one skipped.

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
    """Folders that hold a run.json. Links are followed, each folder is seen once, runs are not searched inside."""
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
    """The runs of one sweep. Raises UserError, naming the nearest sweep there is, where it has none."""
    sweeps = sorted({run.sweep for run in runs})
    if sweep not in sweeps:
        nearest = difflib.get_close_matches(sweep, sweeps, n=1, cutoff=0.0)
        hint = f"did you mean sweep={nearest[0]}?" if nearest else "there are no runs at all."
        raise UserError(f"sweep={sweep} has no run below {root}: {hint}")
    return [run for run in runs if run.sweep == sweep]


def read_run(folder: Path, root: Path) -> Run:
    """One run. Raises UnreadableError for a torn, foreign or missing file; an unfinished run needs run.json only."""
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
        settings={key: value for key, value in settings.items() if not without_effect(key)},
        **read_results(folder / "results.json"),
    )


def read_settings(path: Path) -> dict[str, Any]:
    """config.yaml with dotted keys. Raises UnreadableError."""
    try:
        config = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it is not complete YAML.") from error
    # A run that is older than such a key is the same as one with the key's default.
    settings = flatten(omitted_defaults()) | (flatten(config) if isinstance(config, dict) else {})
    for key in ("model.name", "backbone.name", "data.name"):
        if not isinstance(settings.get(key), str):
            raise UnreadableError(f"{path}: it has no {key}, so it is not the configuration of a run.")
    if type(settings.get("seed")) is not int:
        raise UnreadableError(f"{path}: its seed is {settings.get('seed')!r}, not a whole number.")
    return settings


def read_results(path: Path) -> dict[str, Any]:
    """The fields `metrics`, `fps`, `conditions` and `images` of a Run from results.json. Raises UnreadableError."""
    results = read_json(path)
    metrics = {}
    for metric, (section, key) in METRICS.items():
        if not isinstance(results.get(section), dict):
            raise UnreadableError(f"{path}: it has no {section} metrics.")
        metrics[metric] = 100 * number(results[section].get(key), f"{section}.{key}", path, at_most=1.0)
    speed = results.get("speed")
    speed = speed if isinstance(speed, dict) else {}
    images = results.get("images_evaluated")
    return {
        "metrics": metrics,
        "fps": number(speed.get("fps"), "speed.fps", path),
        "conditions": describe_conditions(speed.get("conditions")),
        "images": images if type(images) is int else None,
    }


def number(value: Any, name: str, path: Path, at_most: float = math.inf) -> float:
    """A measured number; NaN for null, for COCO's -1 (no ground truth) and for what is not finite."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or value > at_most:
        raise UnreadableError(f"{path}: its {name} is {value!r}, which is no such number.")
    return float(value) if math.isfinite(value) and value >= 0 else math.nan


def describe_conditions(conditions: Any) -> str:
    """`NVIDIA V100, 8 threads, fp32, batch size 1`; empty where nothing was recorded."""
    if not isinstance(conditions, dict):
        return ""
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
    """Nested dicts -> dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def without_effect(key: str) -> bool:
    """Whether the dotted key is one that cannot change a result, by the rule of the runs' own signature."""
    return not in_signature(key)


def parse_time(text: Any) -> datetime:
    """ISO 8601; UTC where no zone is given, long ago where it is not a time."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return LONG_AGO
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UnreadableError."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it is not complete JSON.") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"{path}: it is not a JSON object.")
    return content


def read_text(path: Path) -> str:
    """The file as text. Raises UnreadableError where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}.") from error
