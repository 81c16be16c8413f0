"""Tables of studies in the paper's form: own rows in the paper's order, and published rows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from analysis.paper.forms import Form
from analysis.published import Published
from analysis.runs import Run
from analysis.statistics.resampled import Resampler
from analysis.study import Study, StudyRow, build_study, name_of, rows_of, table_key
from analysis.table_rows import Stat, backbone_label, data_label, schedule_label
from htc.config.folders import CONFIG_FOLDER, SWEEPS_FOLDER
from htc.config.signature import with_defaults
from htc.runs.pool import SelectedRun, read_rows

DEFAULT_DATA = "shapes"
"""Data of a run that names none (conf/config.yaml)."""


@dataclass
class FormBlock:
    """Rows that can be compared."""

    title: str
    study: Study
    """The rows with their figures and differences."""
    settings: list[dict[str, str]]
    """What the columns of settings show, per row."""
    sources: list[str] = field(default_factory=list)
    """Per row; empty for own rows."""


@dataclass
class FormTable:
    """A study in its form."""

    form: Form
    metric: str
    blocks: list[FormBlock]
    own: Study | None
    """The study of the own runs."""
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def build_form(
    form: Form,
    runs: Sequence[Run],
    pool: Path,
    published: Published,
    *,
    sweep: str = "",
    base: str = "",
    metric: str = "segm.AP",
    evaluation: str = "default",
    resampler: Resampler | None = None,
) -> FormTable:
    """Return the table of a study in the paper's form.

    Args:
        form: the form.
        runs: all runs below the pool.
        pool: folder of runs.
        published: the published figures.
        sweep: name of the sweep with the runs; empty for that of the form.
        base: label of the row that others are compared with; empty for that of the form.
        metric: metric of the differences.
        evaluation: name of the evaluation.
        resampler: makes the intervals; None for a table without intervals.

    Raises:
        UserError: for an unknown base row or metric.
    """
    sweep = sweep or form.sweep
    selected = read_rows(pool, sweep)
    finished = {row.label for row in rows_of(runs, selected, pool)[0] if row.runs}
    study = build_study(
        runs, pool, sweep, base=base or (form.base if form.base in finished else ""), metric=metric,
        evaluation=evaluation, resampler=resampler,
    )  # fmt: skip
    blocks = published_blocks(form, published, metric)
    if finished:
        overrides = overrides_of(sweep, selected, study)
        complete(study, selected, overrides)
        settings = [words(form, settings_of(row, overrides)) for row in study.rows]
        blocks.insert(0, FormBlock(own_title(form, study), study, settings))
    table = FormTable(form, metric, blocks, study if finished else None, [form.note])
    tables = dict.fromkeys(each.table for each in form.published)
    table.notes += [published.tables[name].remark for name in tables if published.tables[name].remark]
    if not finished:
        command = f"python -m htc.run -m +sweep={form.sweep}"
        table.remarks.append(f"There is no finished run of the sweep {sweep} below {pool}; `{command}` makes them.")
    return table


def published_blocks(form: Form, published: Published, metric: str) -> list[FormBlock]:
    """Return one block per data set, split and schedule; without a column for them, also per backbone.

    The rows of a block are compared with the one that its form names, where both have the figure.
    """
    key = table_key(metric)
    blocks: dict[str, FormBlock] = {}
    bases: dict[str, StudyRow] = {}
    for each in form.published:
        table = published.tables[each.table]
        chosen = [row for row in table.rows if each.backbone in ("", row.backbone)]
        chosen = [row for row in chosen if each.schedule in ("", row.schedule)]
        for index, row in enumerate(chosen):
            backbone = "" if "backbone" in form.columns else row.backbone
            parts = [f"Published: {table.data} {table.split}", backbone, row.schedule]
            title = ", ".join(part for part in parts if part)
            block = blocks.setdefault(title, FormBlock(title, Study("", metric, [], "", None), []))
            figures = {name: Stat(float(value), None, 0) for name, value in row.figures.items() if name != "fps"}
            own = StudyRow(row.method, stats=figures)
            if each.has_base and index == 0:
                bases[title], block.study.base = own, own.label
            elif title in bases and key in figures and key in bases[title].stats:
                own.delta = figures[key].mean - bases[title].stats[key].mean
            block.study.rows.append(own)
            shown = {"backbone": row.backbone, **row.settings, **each.settings}
            block.settings.append({name: shown.get(name, "") for name in form.columns})
            block.sources.append(table.source)
    return list(blocks.values())


def overrides_of(sweep: str, selected: Sequence[SelectedRun], study: Study) -> dict[str, list[str]]:
    """Return the overrides of each row by label: those of the shipped sweep, in its order, and then any other row's."""
    runs = [run for row in study.rows for run in row.runs]
    data = str(runs[0].settings.get("data.name")) if runs else DEFAULT_DATA
    found = {label: row_overrides(row, data) for label, row in shipped_rows(sweep).items()}
    for row in selected:
        found.setdefault(row.label or name_of(row), row.overrides)
    return found


def shipped_rows(sweep: str) -> dict[str, Any]:
    """Return the rows of a shipped sweep by label; none for a sweep of the user."""
    path = SWEEPS_FOLDER / f"{sweep}.yaml"
    if not path.is_file():
        return {}
    rows: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["rows"]
    return rows


def row_overrides(row: Any, data: str) -> list[str]:
    """Return the overrides of a row of a sweep file, which may depend on the data."""
    return shlex.split(str(row.get(data, "") if isinstance(row, dict) else row))


def complete(study: Study, selected: Sequence[SelectedRun], overrides: Mapping[str, list[str]]) -> None:
    """Bring the rows into the order of the sweep file, and add those that the sweep was launched without.

    Args:
        study: the study, whose rows change.
        selected: the runs of its sweep.
        overrides: overrides by label, as `overrides_of` returns them.
    """
    present = {row.label or name_of(row) for row in selected}
    seeds = dict.fromkeys(each.partition("=")[2] for row in selected for each in row.given if each.startswith("seed="))
    shared = [each for each in selected[0].given if not each.startswith(("seed=", "sweep=", "+sweeps="))]
    given = [*shared, *([f"seed={','.join(seeds)}"] if seeds else [])]
    for label in overrides:
        if label not in present:
            command = ["python", "-m", "htc.run", "-m", f"+sweep={study.sweep}", f"rows={label}", *given]
            study.rows.append(StudyRow(label, unfinished=[f"it was not launched: `{shlex.join(command)}`"]))
    order = {label: index for index, label in enumerate(overrides)}
    study.rows.sort(key=lambda row: order.get(known_label(row, order), len(order)))


def known_label(row: StudyRow, labels: Mapping[str, Any]) -> str:
    """Return the label of a row without the settings that tell it apart from another row of the same label."""
    return row.label if row.label in labels else row.label.rpartition(" (")[0]


def settings_of(row: StudyRow, overrides: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the settings of a row: those of its runs, or else what its overrides make of HTC."""
    if row.runs:
        return row.runs[0].settings
    given = [each.lstrip("+").partition("=")[::2] for each in overrides.get(known_label(row, overrides), [])]
    choices = {"model": "htc"} | {key: value for key, value in given if (CONFIG_FOLDER / key).is_dir()}
    paths = {group: CONFIG_FOLDER / group / f"{name}.yaml" for group, name in choices.items()}
    plain = {group: yaml.safe_load(path.read_text("utf-8")) for group, path in paths.items() if path.is_file()}
    values = {key: yaml.safe_load(value) for key, value in given if key not in choices}
    return {**with_defaults(plain), **values}


def words(form: Form, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what the columns of settings show."""
    return {key: setting.words(settings) for key, setting in form.columns.items()}


def own_title(form: Form, study: Study) -> str:
    """Return the data, backbone and schedule of the own rows, as far as all have the same."""
    rows = [row.runs[0] for row in study.rows if row.runs]
    parts = [
        {f"{data_label(run.settings, run.images)} {run.settings.get('data.val.images') or ''}".strip() for run in rows},
        set() if "backbone" in form.columns else {backbone_label(run.settings) for run in rows},
        {schedule_label(run.settings) for run in rows},
    ]
    return ", ".join([f"Ours: {parts[0].pop()}" if len(parts[0]) == 1 else "Ours", *_single(parts[1:])])


def _single(parts: Sequence[set[str]]) -> list[str]:
    return [text for part in parts if len(part) == 1 and (text := next(iter(part)))]
