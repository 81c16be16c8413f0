"""The two tables of the paper: the comparison of methods, and the gain of each component."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.differences import (
    LABEL_KEYS,
    METHOD_KEYS,
    changed_settings,
    distinguishing_settings,
    name_differences,
)
from analysis.published import Published, PublishedTable
from analysis.runs import Run
from analysis.table_rows import ADDED_SWITCHES, IDEAS, METHODS, Row, average, method_with_variant, published_row

METRIC_HEADERS = {
    "box_AP": "box AP",
    "mask_AP": "mask AP",
    "mask_AP50": "AP50",
    "mask_AP75": "AP75",
    "mask_APs": "APs",
    "mask_APm": "APm",
    "mask_APl": "APl",
}
TEXT_HEADERS = {"method": "method", "backbone": "backbone", "data": "data", "split": "split", "schedule": "schedule"}
SWITCH_HEADERS = {
    "cascade": "cascade",
    "interleaved": "interleaved",
    "mask_flow": "mask flow",
    "semantic": "semantic",
}
LEGEND = (
    "AP in percent; AP50 to APl are mask APs. Mean ± sample standard deviation over n seeds where n > 1. "
    "Blocks differ in data, split or settings: compare only rows of the same block. "
    "Further settings in which the rows of a block differ are in brackets after the method."
)


@dataclass
class Block:
    """Rows that can be compared: all of one data set and split, and either own or published."""

    title: str
    rows: list[Row]
    published: bool = False


@dataclass
class Table:
    """A table before it is rendered."""

    name: str
    """Name of its files, without the ending."""
    caption: str
    columns: dict[str, str]
    """Header of each column, by field of Row, switch, key of METRICS, `fps` or `from`."""
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)
    """Sentences for the reader of the table."""
    remarks: list[str] = field(default_factory=list)
    """Sentences for its author: the runs that are not in it, and why."""


def build_tables(runs: list[Run], published: Published, root: Path) -> list[Table]:
    """Return the comparison table and the components table of the runs found below `root`."""
    rows, repeats = average(runs)
    remarks = _remarks(runs, rows, repeats, root)
    return [
        _comparison_table([replace(row) for row in rows], published, remarks),
        _components_table([replace(row) for row in rows], published, remarks),
    ]


def _comparison_table(rows: list[Row], published: Published, remarks: list[str]) -> Table:
    """Return own and published methods: one block per data set and split, then one per published source."""
    rows.sort(key=_comparison_order)
    blocks = _own_blocks(rows, _is_data, _data_title)
    for block in blocks:
        for row in block.rows:
            row.method = method_with_variant(row)
        name_differences(block.rows, lambda row: (row.method, row.backbone, row.schedule), LABEL_KEYS)
    columns = {**TEXT_HEADERS, **METRIC_HEADERS, "fps": "fps", "seeds": "n", "from": "from"}
    notes = [LEGEND, *(table.remark for table in published.comparison if table.remark)]
    return Table(
        "comparison",
        "Comparison of methods.",
        columns,
        blocks + _published_blocks(published.comparison),
        notes,
        remarks,
    )


def _components_table(rows: list[Row], published: Published, remarks: list[str]) -> Table:
    """Return the gain of each component: the rows of a block differ in the model only, and are compared to its base."""
    rows.sort(key=_components_order)
    blocks = _own_blocks(rows, _is_setting, _setting_title)
    for block in blocks:
        _set_deltas(block.rows)
        name_differences(
            block.rows, lambda row: (row.method, *row.switches.values(), row.fusion, row.stages), METHOD_KEYS
        )
    columns = {"method": "method", **SWITCH_HEADERS, **ADDED_SWITCHES}
    if len({row.fusion for row in rows if row.switches["semantic"]}) > 1:
        columns["fusion"] = "fusion"
    if len({row.stages for row in rows if row.switches["cascade"]}) > 1:
        columns["stages"] = "stages"
    columns |= {**METRIC_HEADERS, "delta": "Δ mask AP", "seeds": "n", "from": "from"}
    notes = [LEGEND]
    if blocks:
        notes.append(
            "Δ mask AP: difference in points to the row marked 'base', the one in its block with the fewest of "
            "interleaving, mask flow and semantic branch; a block in which several rows tie has no base. "
            "Differences are computed before rounding. Rows of a block differ in the model only."
        )
    notes += [table.remark for table in published.components]
    return Table(
        "components",
        "What each component brings.",
        columns,
        blocks + _published_blocks(published.components, name_backbone=True),
        notes,
        remarks,
    )


def _own_blocks(rows: list[Row], is_shared: Callable[[str], bool], title: Callable[[Row], str]) -> list[Block]:
    """Group rows into blocks with equal numbers of images and equal settings of the keys for which `is_shared` holds.

    Blocks whose titles are equal also get the settings in which they differ.
    """
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        shared = {key: value for key, value in row.settings.items() if is_shared(key)}
        by_key.setdefault(json.dumps([shared, row.images], sort_keys=True, default=str), []).append(row)
    first = [group[0] for group in by_key.values()]
    ignore = {key for row in first for key in row.settings if not is_shared(key)}
    differences = distinguishing_settings(first, title, ignore)
    blocks = []
    for group in by_key.values():
        parts = [f"Ours: {title(group[0])}", *differences.get(id(group[0]), [])]
        blocks.append(Block(", ".join(parts), group))
    return sorted(blocks, key=lambda block: _natural(block.title))


def _is_data(key: str) -> bool:
    """Return whether the dotted key determines the data that a run is evaluated on."""
    return key == "data.name" or key.startswith(("data.val.", "data.shapes.", "eval."))


def _is_setting(key: str) -> bool:
    """Return whether the dotted key has one value per block of components: every key but the model's, and its width."""
    return not key.startswith("model.") or key == "model.channels"


def _data_title(row: Row) -> str:
    return f"{row.data} {row.split}".strip()


def _setting_title(row: Row) -> str:
    return ", ".join(part for part in (_data_title(row), row.backbone, row.schedule) if part)


def _published_blocks(tables: list[PublishedTable], name_backbone: bool = False) -> list[Block]:
    """Return one block per data set and split; with `name_backbone`, the title names backbones, as no column does."""
    blocks: dict[str, Block] = {}
    for table in tables:
        backbones = dict.fromkeys(row.backbone for row in table.rows) if name_backbone else ()
        title = ", ".join([f"Published: {table.data} {table.split}", *backbones])
        block = blocks.setdefault(title, Block(title, [], published=True))
        block.rows += [published_row(table, row) for row in table.rows]
    return list(blocks.values())


def _set_deltas(rows: list[Row]) -> None:
    """Mark the base of a block, and set the difference in mask AP of all other rows to it.

    The base has the fewest ideas. Among several such rows, a cascade comes before a single stage, then HTC before other
    methods, then the row with the fewest changed settings. Where rows still tie, there is no base.
    """

    def rank(row: Row) -> tuple[Any, ...]:
        return (row.ideas, not row.switches["cascade"], row.method != METHODS["htc"], len(changed_settings(row)))

    base = min(rows, key=rank)
    if [rank(row) for row in rows].count(rank(base)) > 1:
        return
    base.is_base = True
    for row in rows:
        if row is not base and "mask_AP" in row.stats and "mask_AP" in base.stats:
            row.delta = row.stats["mask_AP"].mean - base.stats["mask_AP"].mean


def _remarks(runs: list[Run], rows: list[Row], repeats: list[str], root: Path) -> list[str]:
    """Return sentences about runs that are not in the tables; `repeats` are those of `average`."""
    remarks = []
    if not rows:
        remarks.append(f"There is no finished run below {root}: only published rows are shown.")
    remarks += repeats
    statuses = sorted({run.status for run in runs if run.status != "done"})
    for status in statuses:
        folders = ", ".join(f"`{run.folder}`" for run in runs if run.status == status)
        remarks.append(f"Not finished, {status}: {folders}.")
    return remarks


def _method_rank(row: Row) -> tuple[int, str]:
    """Sort key: known methods in the order of METHODS, then others by name."""
    known = list(METHODS.values())
    return (known.index(row.method) if row.method in known else len(known), row.method)


def _natural(text: str) -> list[Any]:
    """Sort key that compares numbers by value: ResNet-50 comes before ResNet-101."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]


def _switch_order(row: Row) -> tuple[Any, ...]:
    """Sort key: fewest ideas first, then in the order in which the paper adds them."""
    return (row.ideas, *(not row.switches[idea] for idea in IDEAS), row.fusion, row.stages or 0)


def _comparison_order(row: Row) -> tuple[Any, ...]:
    key = json.dumps(row.settings, sort_keys=True, default=str)
    return (_method_rank(row), _natural(row.backbone), _natural(row.schedule), _switch_order(row), key)


def _components_order(row: Row) -> tuple[Any, ...]:
    key = json.dumps(row.settings, sort_keys=True, default=str)
    return (row.switches["cascade"], row.ideas, _method_rank(row), _switch_order(row), key)
