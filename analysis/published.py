"""Published figures with their sources, from analysis/reference/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from analysis.runs import METRICS

REFERENCE = Path(__file__).parent / "reference"


@dataclass(frozen=True)
class PublishedRow:
    """One row as it was published."""

    method: str
    backbone: str
    schedule: str
    figures: dict[str, float]
    """Figures by the keys of METRICS (in percent) and `fps`; those that were not published are absent."""
    settings: dict[str, str] = field(default_factory=dict)
    """Words for settings that the row names besides, by the columns of a form (`analysis/paper/forms.py`)."""


@dataclass(frozen=True)
class PublishedTable:
    """Rows of one source, all evaluated on the same split."""

    data: str
    split: str
    source: str
    rows: list[PublishedRow]
    fps_conditions: str = ""
    """Hardware and settings of the fps figures."""
    remark: str = ""
    """A sentence about further statements of the source; empty if there are none."""


@dataclass(frozen=True)
class Published:
    """The published rows that each table shows next to own runs."""

    comparison: list[PublishedTable]
    components: list[PublishedTable]
    tables: dict[str, PublishedTable]
    """All tables by name: `paper`, `components`, `extensions`, `mmdetection_zoo`, and the keys of zoos_val2017.yaml."""


ZOOS_OF_COMPARISON = ("mmdetection_v1_2019", "cascade_mask_rcnn_v2")
"""Tables of zoos_val2017.yaml with the paper's methods; the others hold later methods built on HTC."""


def load_published(folder: Path = REFERENCE) -> Published:
    """Return the published figures of the files in `folder`. Raises ValueError for a table without source."""
    paper = _load(folder / "comparison_test_dev.yaml")
    zoo = _load(folder / "mmdetection_zoo_val2017.yaml")
    hands = _load(folder / "reproductions_val2017.yaml")
    steps = _load(folder / "extensions_test_dev.yaml")
    overall = paper["overall_system"]
    overall_remark = (
        f"Published overall system of the paper: mask AP {overall['test_dev_mask_AP']} on test-dev, "
        f"{overall['test_challenge_mask_AP']} on test-challenge; its steps from {steps['start_mask_AP']}, in this "
        f"order: {', '.join(steps['steps_in_order'])}. Source: {paper['source']}."
    )
    tables = {
        "paper": _table(paper, overall_remark),
        "mmdetection_zoo": _table(zoo, f"Conditions of {zoo['source']}: {zoo['notes']}. {_spread(hands)}"),
        "components": _components(_load(folder / "components_val2017.yaml")),
        "extensions": _extensions(steps),
        **_zoos(_load(folder / "zoos_val2017.yaml")),
    }
    if unsourced := [name for name, table in tables.items() if not table.source]:
        raise ValueError(f"published tables without source: {', '.join(unsourced)}")
    comparison = [tables[name] for name in ("paper", "mmdetection_zoo", *ZOOS_OF_COMPARISON)]
    return Published(comparison, [tables["components"]], tables)


def _table(content: dict[str, Any], remark: str = "") -> PublishedTable:
    """Return the table that a file's `columns` and `rows` hold."""
    rows = []
    for values in content["rows"]:
        row = dict(zip(content["columns"], values, strict=True))
        figures = {key: row[key] for key in [*METRICS, "fps"] if row.get(key) is not None}
        rows.append(PublishedRow(row["method"], row["backbone"], row.get("schedule", ""), figures))
    conditions = content.get("fps_conditions", "conditions not published")
    return PublishedTable(content["data"], content["split"], content["source"], rows, conditions, remark)


def _components(content: dict[str, Any]) -> PublishedTable:
    """Return the row of HTC with all components; the remark has the gain of each one."""
    full, gains = content["full_htc_r50"], content["gains_mask_AP"]
    words = ", ".join(f"{component.replace('_', ' ')} ({gain})" for component, gain in gains.items())
    remark = f"Published gains in mask AP on {content['split']}: {words}. Source: {content['source']}."
    figures = {"box_AP": full["box_AP"], **{f"mask_{key}": ap for key, ap in full["mask_AP_columns"].items()}}
    row = PublishedRow(full["method"], full["backbone"], "", figures)
    return PublishedTable(content["data"], full["split"], full["source"], [row], remark=remark)


def _extensions(content: dict[str, Any]) -> PublishedTable:
    """Return the steps from HTC to the challenge entry: a row each, of which the first and the last have figures."""
    steps = content["steps_in_order"]
    backbones = [content["backbone"]]
    rows = [PublishedRow(content["method"], content["backbone"], "", {"mask_AP": content["start_mask_AP"]})]
    for index, step in enumerate(steps):
        # A step that is a member of the ensemble replaces the backbone.
        backbones.append(step if step in content["ensemble_members"] else backbones[-1])
        figures = {"mask_AP": content["end_mask_AP"]["test_dev"]} if index == len(steps) - 1 else {}
        rows.append(PublishedRow(f"+ {step}", backbones[-1], "", figures))
    for index, row in enumerate(rows):
        done = steps[:index]
        row.settings.update(dcn="✓" if "DCN" in done else "–", norm="SyncBN" if "SyncBN" in done else "–")
    rows[-1] = replace(rows[-1], backbone=f"{len(content['ensemble_members'])} backbones")
    remark = (
        f"Published on test-challenge: mask AP {content['end_mask_AP']['test_challenge']}. Members of the ensemble: "
        f"{', '.join(content['ensemble_members'])}. The figures between start and end were in no source that could "
        "be read."
    )
    return PublishedTable(content["data"], content["split"], content["source"], rows, remark=remark)


def _zoos(content: dict[str, Any]) -> dict[str, PublishedTable]:
    """Return the tables of a file that holds several, by key: those entries that have rows."""
    shared = {key: content[key] for key in ("data", "split", "columns")}
    return {key: _table({**shared, **zoo}) for key, zoo in content.items() if isinstance(zoo, dict)}


def _spread(hands: dict[str, Any]) -> str:
    """Return a sentence about the figures of one row by different hands."""
    rows = [dict(zip(hands["columns"], values, strict=True)) for values in hands["rows"]]
    listed = "; ".join(f"{row['by']} {row['box_AP']} / {row['mask_AP']}" for row in rows)
    values = [row["mask_AP"] for row in rows]
    spread = max(values) - min(values)
    return (
        f"{hands['method']} with {hands['backbone']} and {hands['schedule']} by different hands, box / mask AP: "
        f"{listed}. These span {spread:.1f} mask AP, as much as a single gain of the paper."
    )


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
