"""What figures compare: variants, which are the runs of one configuration, in groups that were evaluated alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.differences import LABEL_KEYS, name_differences
from analysis.runs import Run, UnreadableError, default_evaluation, read_json, read_runs, run_folders, select_sweep
from analysis.study import rows_of, stat_of, statistics
from analysis.table_rows import Stat, average, data_label, method_with_variant
from htc.errors import UserError, nearest
from htc.runs.json_values import mapping, number, text
from htc.runs.pool import UNNAMED, read_rows, sweep_names
from htc.runs.record import RunRecord

DATA_KEYS = ("data.name", "data.val.", "data.shapes.", "eval.")
"""Beginnings of the keys that determine what a run is evaluated on, and how."""


@dataclass(frozen=True)
class Variant:
    """The finished runs of one configuration, which differ in the seed only."""

    label: str
    runs: tuple[Run, ...]
    """By seed."""
    pool: Path
    """Folder that the paths of the runs are relative to."""
    evaluation: str = "default"
    """Name of the evaluation that is shown."""
    stats: dict[str, Stat] = field(default_factory=dict)
    """Metrics in percent by the keys of METRICS, `fps`, and `device_hours`; unknown ones are absent."""
    devices: str = ""
    """Names of the devices that the runs were trained on."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that can change the result, by dotted key, without the seed."""
        return self.runs[0].settings

    def folder(self, run: Run) -> Path:
        return self.pool / run.folder


@dataclass(frozen=True)
class Group:
    """Variants that may be compared: all were evaluated on the same images and with the same settings."""

    title: str
    """The data, such as `COCO val2017`."""
    variants: tuple[Variant, ...]
    sweep: str = ""
    """Name of the sweep whose rows the variants are; empty for none."""

    @property
    def slug(self) -> str:
        """The title as a part of a file's name."""
        return re.sub(r"[^\w]+", "_", self.title).strip("_").lower()

    def variant(self, label: str) -> Variant:
        """Return the variant with a label. Raises UserError, with the most similar label, where there is none."""
        labels = [each.label for each in self.variants]
        if label not in labels:
            raise UserError(f"there is no variant '{label}'{nearest(label, labels)}; there are: {'; '.join(labels)}.")
        return self.variants[labels.index(label)]


def read_groups(root: Path, sweep: str = "", evaluation: str = "") -> tuple[list[Group], list[str]]:
    """Return the variants of the finished runs below `root`, and a sentence for each run that is not shown.

    With a sweep, the variants are its rows, with their labels and in their order; also without its name, if all runs
    belong to the only one. Else they are named by method and settings, as in the tables.

    Args:
        root: folder of runs.
        sweep: name of the sweep whose runs are shown; empty for all runs.
        evaluation: name of the evaluation that is shown; empty for `default`, or the only one that there is.

    Raises:
        UserError: for a missing folder, and for an unknown sweep or evaluation.
    """
    runs, complaints = read_runs(root, evaluation)
    evaluation = evaluation or default_evaluation(run_folders(root, []))
    if sweep:
        runs = select_sweep(runs, sweep, root)
    complaints += [
        f"not shown, because it is {run.status}: {root / run.folder}" for run in runs if run.status != "done"
    ]
    done = [run for run in runs if run.status == "done"]
    sweep = sweep or _only_sweep(root, done)
    if sweep:
        rows, remarks = rows_of(done, read_rows(root, sweep), root)
        complaints += remarks
        named = [(row.label, row.runs) for row in rows if row.runs]
    else:
        named = _named_by_settings(done, complaints)
    variants = [_variant(label, of_label, root, evaluation) for label, of_label in named]
    return _groups(variants, sweep), complaints


def _only_sweep(root: Path, runs: Sequence[Run]) -> str:
    """Return the sweep that has all runs, if it is the only one that has a name."""
    names = [name for name in sweep_names(root) if name != UNNAMED]
    return names[0] if len(names) == 1 and all(names[0] in run.sweeps for run in runs) else ""


def _named_by_settings(runs: Sequence[Run], complaints: list[str]) -> list[tuple[str, list[Run]]]:
    rows, remarks = average(runs)
    complaints += remarks
    by_folder = {run.folder: run for run in runs}
    for row in rows:
        row.method = method_with_variant(row)
    rows.sort(key=lambda row: (row.ideas, row.method, row.backbone, row.schedule))
    name_differences(rows, lambda row: (row.method, row.backbone, row.schedule), LABEL_KEYS)
    shown = [key for key in ("backbone", "schedule") if len({getattr(row, key) for row in rows}) > 1]
    return [
        (", ".join([row.method, *(getattr(row, key) for key in shown)]), [by_folder[folder] for folder in row.runs])
        for row in rows
    ]


def _variant(label: str, runs: Sequence[Run], pool: Path, evaluation: str) -> Variant:
    stats = statistics(runs)
    costs = [device_hours(pool / run.folder) for run in runs if not run.continues]
    known = np.array([hours for hours, _ in costs if hours is not None])
    if len(known):
        stats["device_hours"] = stat_of(known)
    devices = ", ".join(sorted({device for _, device in costs if device}))
    return Variant(label, tuple(runs), pool, evaluation, stats, devices)


def device_hours(folder: Path) -> tuple[float | None, str]:
    """Return the hours of training times the number of processes, None where unknown, and the device's name."""
    try:
        record = RunRecord.from_json(read_json(folder / "run.json"))
    except UnreadableError:
        return None, ""
    device = next((each for each in record.devices if isinstance(each, str)), "")
    training = record.training
    if training is None or training.training_seconds is None:
        return None, device
    return training.training_seconds * (training.processes or 1) / 3600, device


def _groups(variants: Sequence[Variant], sweep: str) -> list[Group]:
    """Group variants by what they were evaluated on; equal titles get a number."""
    by_data: dict[str, list[Variant]] = {}
    for variant in variants:
        shared = {key: value for key, value in variant.settings.items() if key.startswith(DATA_KEYS)}
        images = variant.runs[0].images
        by_data.setdefault(json.dumps([shared, images], sort_keys=True, default=str), []).append(variant)
    groups: list[Group] = []
    for members in by_data.values():
        settings = members[0].settings
        title = f"{data_label(settings, members[0].runs[0].images)} {settings.get('data.val.images') or ''}".strip()
        same = sum(group.title == title or group.title.startswith(f"{title} (") for group in groups)
        groups.append(Group(f"{title} ({same + 1})" if same else title, tuple(members), sweep))
    return groups


def read_history(variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the lines of metrics.jsonl of all runs of some variants.

    Returns:
        One row per line: `label`, `seed`, `kind` (`train` or `eval`), `step`, and where the line has them `lr`, `loss`,
        `losses.NAME`, `box_AP` and `mask_AP` (percent). Incomplete lines are left out; of repeated steps, the last
        line is kept.
    """
    rows = []
    for variant in variants:
        for run in variant.runs:
            for line in _lines(variant.folder(run) / "metrics.jsonl"):
                rows.append({"label": variant.label, "seed": run.seed, **line})
    frame = pd.DataFrame(rows, columns=None if rows else ["label", "seed", "kind", "step"])
    return frame.drop_duplicates(["label", "seed", "kind", "step"], keep="last", ignore_index=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    lines = []
    for line in content.splitlines():
        try:
            found = mapping(json.loads(line))
        except (ValueError, RecursionError):
            continue
        kind, step = text(found.get("kind")), number(found.get("step"))
        if kind not in ("train", "eval") or step is None:
            continue
        figures: dict[str, float | None] = {key: number(found.get(key)) for key in ("lr", "loss") if key in found}
        figures |= {f"losses.{key}": number(value) for key, value in mapping(found.get("losses")).items()}
        for name, section in (("box_AP", "bbox"), ("mask_AP", "segm")):
            if (value := number(mapping(found.get(section)).get("AP"))) is not None:
                figures[name] = 100 * value
        known = {key: math.nan if value is None else float(value) for key, value in figures.items()}
        lines.append({"kind": kind, "step": float(step), **known})
    return lines
