"""Published figures with their sources, from analysis/reference/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass
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


def load_published(folder: Path = REFERENCE) -> Published:
    """Return the published figures of the files in `folder`."""
    paper = _load(folder / "comparison_test_dev.yaml")
    zoo = _load(folder / "mmdetection_zoo_val2017.yaml")
    components = _load(folder / "components_val2017.yaml")
    overall, full, gains = paper["overall_system"], components["full_htc_r50"], components["gains_mask_AP"]
    hands = _load(folder / "reproductions_val2017.yaml")
    steps = _load(folder / "extensions_test_dev.yaml")
    overall_remark = (
        f"Published overall system of the paper: mask AP {overall['test_dev_mask_AP']} on test-dev, "
        f"{overall['test_challenge_mask_AP']} on test-challenge; its steps from {steps['start_mask_AP']}, in this "
        f"order: {', '.join(steps['steps_in_order'])}. Source: {paper['source']}."
    )
    words = ", ".join(f"{component.replace('_', ' ')} ({gain})" for component, gain in gains.items())
    gains_remark = f"Published gains in mask AP on {components['split']}: {words}. Source: {components['source']}."
    figures = {"box_AP": full["box_AP"], **{f"mask_{key}": ap for key, ap in full["mask_AP_columns"].items()}}
    row = PublishedRow(full["method"], full["backbone"], "", figures)
    return Published(
        comparison=[
            _table(paper, overall_remark),
            _table(zoo, f"Conditions of {zoo['source']}: {zoo['notes']}. {_spread(hands)}"),
        ],
        components=[PublishedTable(components["data"], full["split"], full["source"], [row], remark=gains_remark)],
    )


def _table(content: dict[str, Any], remark: str) -> PublishedTable:
    """Return the table that a file's `columns` and `rows` hold."""
    rows = []
    for values in content["rows"]:
        row = dict(zip(content["columns"], values, strict=True))
        figures = {key: row[key] for key in [*METRICS, "fps"] if row.get(key) is not None}
        rows.append(PublishedRow(row["method"], row["backbone"], row.get("schedule", ""), figures))
    return PublishedTable(content["data"], content["split"], content["source"], rows, content["fps_conditions"], remark)


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
