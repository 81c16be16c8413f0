"""Rows of the tables: the mean over the seeds of one configuration, and the words that show the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.published import PublishedRow, PublishedTable
from analysis.runs import METRICS, Run

METHODS = {"mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN", "htc": "HTC"}
IDEAS = {"interleaved": "interleaving", "mask_flow": "mask flow", "semantic": "semantic branch"}
ADDED_SWITCHES: dict[str, str] = {}
"""Switches of the model that the paper does not have: by key, the header of the column in the components table."""
DATA = {"coco": "COCO"}
NORMS = {("sync_bn", "batch"): ["SyncBN"], ("bn", "batch"): ["BN of the batch"], ("gn", "stored"): ["GN"]}
"""Words for the normalisation of the backbone, by `backbone.norm` and `backbone.bn_mode`; batch norm with stored
statistics, as in the paper, has none."""


@dataclass(frozen=True)
class Stat:
    """A figure over seeds: mean, sample standard deviation (None for one value), and number of values (0: unknown)."""

    mean: float
    std: float | None
    n: int


@dataclass
class Row:
    """One row of a table: own (with runs) or published (with a source)."""

    method: str
    backbone: str
    data: str
    split: str
    schedule: str
    stats: dict[str, Stat]
    """Figures by the keys of METRICS (in percent) and `fps`; unknown ones are absent."""
    fps_conditions: str = ""
    """Hardware and settings of the fps figure."""
    source: str = ""
    """Source of a published row."""
    runs: list[str] = field(default_factory=list)
    """Folders of the runs of an own row, sorted by seed."""
    seeds: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of an own row that can change the result, by dotted key, without the seed."""
    switches: dict[str, bool] = field(default_factory=dict)
    """Whether the row has a `cascade`, and whether it has each of IDEAS and of ADDED_SWITCHES."""
    fusion: str = ""
    stages: int | None = None
    images: int | None = None
    delta: float | None = None
    """Difference in mask AP to the base of its block, in points."""
    is_base: bool = False

    @property
    def ideas(self) -> int:
        """Number of HTC's ideas, and of added switches, that the row has."""
        return sum(self.switches[idea] for idea in (*IDEAS, *ADDED_SWITCHES))


def average(runs: Iterable[Run]) -> tuple[list[Row], list[str]]:
    """Return one row per configuration of the finished runs, and a sentence for each seed that was run more than once.

    Of several runs with the same seed, only the newest is used: averaging all of them would give that seed more weight
    than the others.
    """
    finished = {run.folder: run for run in runs if run.status == "done"}
    if not finished:
        return [], []
    frame = pd.DataFrame(
        [
            {
                "group": run.group,
                "seed": run.seed,
                "ended": run.ended,
                "folder": run.folder,
                "fps": run.fps,
                **run.metrics,
            }
            for run in finished.values()
        ]
    )
    frame["repeat"] = frame["folder"].str.extract(r"-r(\d+)$", expand=False).fillna("1").astype(int)
    frame = frame.sort_values(["group", "seed", "ended", "repeat", "folder"])
    newest = ~frame.duplicated(["group", "seed"], keep="last")
    remarks = []
    for _, repeated in frame[frame.duplicated(["group", "seed"], keep=False)].groupby(["group", "seed"]):
        *older, last = repeated["folder"]
        left_out = ", ".join(f"`{folder}`" for folder in older)
        remarks.append(f"Run more than once with the same seed: the newest, `{last}`, is used; left out: {left_out}.")
    rows = []
    statistics = frame[newest].groupby("group")[[*METRICS, "fps"]].agg(["mean", "std", "count"])
    of_group = statistics.to_dict("index")
    for group, members in frame[newest].groupby("group"):
        own = [finished[folder] for folder in members["folder"]]
        stats: dict[str, Stat] = {}
        for key in [*METRICS, "fps"]:
            mean, std, n = (of_group[group][key, name] for name in ("mean", "std", "count"))
            if n:
                stats[key] = Stat(float(mean), float(std) if n > 1 else None, int(n))
        rows.append(_own_row(own, stats))
        remarks += code_remarks(own)
        remarks += [f"`{run.folder}` continues {run.continues}." for run in own if run.continues]
    return rows, sorted([*remarks, *content_remarks(finished.values())])


def code_remarks(runs: list[Run]) -> list[str]:
    """Return a sentence if the seeds of a row were trained by different code, or by code that no commit has."""
    codes = {run.code for run in runs}
    if len(runs) == 1 or (len(codes) == 1 and "uncommitted" not in runs[0].code):
        return []
    listed = ", ".join(f"`{run.folder}` ({run.code or 'code not recorded'})" for run in runs)
    return [f"Averaged although the code may differ between the seeds: {listed}."]


def content_remarks(runs: Iterable[Run]) -> list[str]:
    """Return a sentence for each group of runs that differ only in the content of the data at one place."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        if "data.content" in run.settings:
            other = {key: value for key, value in run.settings.items() if not key.endswith(".content")}
            alike.setdefault(repr((sorted(other.items()), run.root)), []).append(run)
    remarks = []
    for group in alike.values():
        if len({run.group for run in group}) > 1:
            listed = ", ".join(f"`{run.folder}`" for run in group)
            remarks.append(
                f"Not averaged: the data at data.root={group[0].root} had other content when one of these runs was "
                f"trained or evaluated than for another: {listed}."
            )
    return remarks


def _own_row(runs: list[Run], stats: dict[str, Stat]) -> Row:
    """Return the row of the runs of one configuration; fps figures of different conditions are listed, not averaged."""
    settings = runs[0].settings
    conditions = sorted({run.conditions or "conditions not recorded" for run in runs if "fps" in stats})
    if len(conditions) > 1:
        del stats["fps"]
        measured = "; ".join(f"{run.fps:.1f} ({run.conditions or 'conditions not recorded'})" for run in runs)
        conditions = [f"not averaged, because the seeds were measured under different conditions: {measured}"]
    stages = settings.get("model.num_stages")
    switches = {idea: settings.get(f"model.{idea}") is True for idea in (*IDEAS, *ADDED_SWITCHES)}
    return Row(
        method=METHODS.get(settings["model.name"], settings["model.name"]),
        backbone=backbone_label(settings),
        data=data_label(settings, runs[0].images),
        split=str(settings.get("data.val.images") or ""),
        schedule=schedule_label(settings),
        stats=stats,
        fps_conditions=conditions[0] if conditions else "",
        runs=[run.folder for run in runs],
        seeds=len(runs),
        settings=settings,
        switches={"cascade": isinstance(stages, int) and stages > 1, **switches},
        fusion=str(settings.get("model.semantic_fusion") or ""),
        stages=stages if isinstance(stages, int) else None,
        images=runs[0].images,
    )


def published_row(table: PublishedTable, row: PublishedRow) -> Row:
    """Return the row of a published row; its switches follow from the name of the method."""
    is_htc = row.method.split(",")[0] == METHODS["htc"]
    return Row(
        method=row.method,
        backbone=row.backbone,
        data=table.data,
        split=table.split,
        schedule=row.schedule,
        stats={key: Stat(float(value), None, 1) for key, value in row.figures.items()},
        fps_conditions=table.fps_conditions if "fps" in row.figures else "",
        source=table.source,
        switches={
            "cascade": row.method not in (METHODS["mask_rcnn"], "PANet"),
            **dict.fromkeys(IDEAS, is_htc),
            **dict.fromkeys(ADDED_SWITCHES, False),
        },
    )


def backbone_label(settings: dict[str, Any]) -> str:
    """Return `ResNet-50-FPN`, with the widths, DCN and normalisation that differ from the paper's in brackets."""
    label, unusual = backbone_words(settings)
    if words := deformable_words(settings):
        unusual.append(f"DCN {words}")
    unusual += norm_words(settings)
    return f"{label} ({', '.join(unusual)})" if unusual else label


def backbone_words(settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return `ResNet-50-FPN`, and the widths that differ from the paper's."""
    name = str(settings["backbone.name"])
    label = re.sub(r"^resnext(\d+)_(\w+)$", r"ResNeXt-\1-\2", re.sub(r"^resnet(\d+)$", r"ResNet-\1", name)) + "-FPN"
    widths = {"width": (settings.get("backbone.width"), 64), "channels": (settings.get("model.channels"), 256)}
    return label, [f"{word} {value}" for word, (value, usual) in widths.items() if value not in (usual, None)]


def deformable_words(settings: Mapping[str, Any]) -> str:
    """Return `c3-c5` for deformable convolutions in these stages; empty for none."""
    stages = settings.get("backbone.deformable_stages")
    if isinstance(stages, list) and stages and all(type(stage) is int for stage in stages):
        return "c" + "-c".join(str(stage + 1) for stage in dict.fromkeys((stages[0], stages[-1])))
    return ""


def norm_words(settings: Mapping[str, Any]) -> list[str]:
    """Return words for a normalisation of the backbone that is not the paper's; empty for the paper's."""
    return NORMS.get((str(settings.get("backbone.norm")), str(settings.get("backbone.bn_mode"))), [])


def schedule_label(settings: dict[str, Any]) -> str:
    """Return `12 epochs` or `300 iterations`."""
    for unit in ("epochs", "iterations"):
        if (length := settings.get(f"schedule.{unit}")) is not None:
            return f"{length} {unit}"
    return ""


def data_label(settings: dict[str, Any], images: int | None) -> str:
    """Return `COCO` or `shapes`, followed by the number of images if only a part of the split was evaluated."""
    name = DATA.get(settings["data.name"], settings["data.name"])
    limited = settings.get("eval.limit") is not None or settings.get("data.val.limit") is not None
    return f"{name} ({images} images)" if limited and images is not None else name


def method_with_variant(row: Row) -> str:
    """Return the method and its differences from the published method, such as `HTC w/o mask flow`."""
    if not row.settings:
        return row.method
    name = row.settings["model.name"]
    on = [idea for idea in IDEAS if row.switches[idea]]
    words = []
    if name == "htc" and len(on) < len(IDEAS):
        words.append("w/o " + _listed(text for idea, text in IDEAS.items() if idea not in on))
    elif name in METHODS and name != "htc" and on:
        words.append("with " + _listed(IDEAS[idea] for idea in on))
    words += [f"with {header}" for switch, header in ADDED_SWITCHES.items() if row.switches[switch]]
    if row.switches["semantic"] and row.fusion not in ("both", ""):
        words.append(f"fusion in {row.fusion} heads")
    if name in METHODS and row.stages not in (None, 1 if name == "mask_rcnn" else 3):
        words.append(f"{row.stages} stages" if row.stages != 1 else "1 stage")
    return " ".join([row.method, ", ".join(words)]).strip()


def _listed(words: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
