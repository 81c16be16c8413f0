"""Other systems as rows: results that `python -m htc.evaluate predictions=FILE annotations=FILE out=FOLDER` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.runs import Run, UnreadableError, parse_time, read_json, read_results
from analysis.study import StudyRow
from htc.errors import UserError
from htc.runs.evaluations import EvaluationFolder
from htc.runs.json_values import text

SYSTEM_KEY = "system"
"""Key of the only setting of another system's row: its name."""


def is_system(row: StudyRow) -> bool:
    """Return whether a row is another system, whose settings are not known."""
    return bool(row.runs) and SYSTEM_KEY in row.runs[0].settings


def read_systems(folders: Sequence[Path]) -> list[StudyRow]:
    """Return one row per system; folders of one system's name are its runs, as with several seeds.

    Raises UserError for a folder that does not have the results of another system.
    """
    rows: dict[str, StudyRow] = {}
    for folder in folders:
        label, run = read_system(folder)
        row = rows.setdefault(label, StudyRow(label))
        row.runs.append(replace(run, seed=len(row.runs)))
    return list(rows.values())


def read_system(folder: Path) -> tuple[str, Run]:
    """Return the name of a system, and its results as a run whose folder is an absolute path."""
    file = EvaluationFolder(folder).results_file
    try:
        results = read_json(file)
        values = read_results(results, file)
    except UnreadableError as error:
        raise UserError(f"systems={folder}: {error}") from None
    name = text(results.get("system"))
    if not name:
        raise UserError(
            f"systems={folder} has no results of another system: python -m htc.evaluate predictions=FILE "
            f"annotations=FILE out={folder} makes them."
        )
    ended = parse_time(results.get("evaluated"))
    return name, Run(
        folder=folder.absolute().as_posix(), status="done", ended=ended, settings={SYSTEM_KEY: name}, **values
    )
