"""What a run tells wandb of its folder: enough to rebuild every table from wandb alone.

The facts are there twice. As nested values, which dashboards can plot and filter; and as the text of the files that the
tables read, because wandb's service changes values on their way: 1.0 becomes 1, and keys change their order.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from htc.config.schema import Config
from htc.config.signature import to_plain
from htc.runs.evaluations import EVALUATIONS_FOLDER, RESULTS_FILE, evaluation_folder, evaluation_names
from htc.runs.files import plain_json, read_object
from htc.runs.json_values import mapping
from htc.runs.pool import (
    SEARCH_FILE,
    SWEEP_FILE,
    SWEEPS_FOLDER,
    SelectedRun,
    read_rows,
    sweep_folder,
    sweep_names,
)
from htc.runs.record import RunRecord
from htc.runs.redaction import redact_command

RECORD_KEY = "record"
"""Key of wandb's configuration below which the facts are that a run knows when it starts."""
FILES_KEY = "files"
"""Key of the texts, by their paths in the run's folder; below RECORD_KEY, and in the summary."""
EVALUATIONS_KEY = "evaluations"
"""Key of wandb's summary below which the results of each evaluation are."""
PRIVATE = ("command", "wandb", "launch", "resumes")
"""Fields of the record that stay on this machine: the command line may have secrets, the others are of no use there."""
MAX_ROWS = 200
"""Most rows of a sweep that each of its runs logs; of a longer one, a run logs its own rows only."""
MAX_SEARCH = 200_000
"""Most characters of the search.json that a trial logs."""
MAX_TAG = 64
"""Most characters of a tag of wandb."""


def started(config: Config, folder: Path) -> dict[str, Any]:
    """Return what a run that starts adds to wandb's configuration, below RECORD_KEY.

    Args:
        config: the run's configuration.
        folder: its folder. Sweeps are those that select the run by now.
    """
    record = _read_record(folder)
    sweeps = sweeps_of(folder)
    labels = {sweep: label for sweep, rows in sweeps.items() if (label := _label_of(folder, rows)) is not None}
    facts = {key: value for key, value in public(record).items() if key not in ("status", "error", "end", "training")}
    return {
        "folder": folder.name,
        **facts,
        "sweeps": list(sweeps),
        "label": labels,
        "variant": re.sub(r"-seed\d+(?=-|$)", "", config.name or folder.name),
        FILES_KEY: {"config.yaml": _config_text(folder, config)},
    }


def state(folder: Path, status: str | None = None, end: str | None = None, error: str | None = None) -> dict[str, Any]:
    """Return wandb's summary of a run: its status, what its training took, and the results of all evaluations.

    Args:
        folder: the run's folder.
        status: the status that the run is about to record; None: the recorded one. A run that is done stays done.
        end: the time of the end, for a run that is about to end.
        error: why the run failed.
    """
    record = _read_record(folder)
    if status is not None and record.status != "done":
        record.status, record.end, record.error = status, end, error
    results = {name: public_results(evaluation_folder(folder, name).read()) for name in evaluation_names(folder)}
    files = {f"{EVALUATIONS_FOLDER}/{name}/{RESULTS_FILE}": json.dumps(each) for name, each in results.items()}
    training = {} if record.training is None else asdict(record.training)
    return {
        # Null replaces the end and the error of an earlier attempt.
        "status": record.status,
        "end": record.end,
        "error": record.error,
        **{key: value for key, value in training.items() if value is not None},
        **({EVALUATIONS_KEY: results} if results else {}),
        FILES_KEY: {"run.json": json.dumps(public(record)), **files, **_sweep_texts(folder)},
    }


def public(record: RunRecord) -> dict[str, Any]:
    """Return the record as run.json holds it, without the command, the text of code changes, and facts of jobs."""
    content = {key: value for key, value in record.to_json().items() if key not in {*PRIVATE, *record.other}}
    git = mapping(content.get("git"))
    return plain_json({**content, "git": {key: git[key] for key in ("commit", "dirty") if key in git} or None})


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of results.json without the command's arguments: `settings` has those that matter."""
    return plain_json(
        {key: value for key, value in results.items() if key not in ("config", "overrides", "annotation_file")}
    )


def sweeps_of(folder: Path) -> dict[str, list[SelectedRun]]:
    """Return the rows of each sweep of a run's pool that selects it."""
    rows = {sweep: read_rows(folder.parent, sweep) for sweep in sweep_names(folder.parent)}
    return {sweep: found for sweep, found in rows.items() if any(row.run == folder.name for row in found)}


def tags_of(folder: Path) -> list[str]:
    """Return the tags of a run at wandb: the sweeps that select it, as far as wandb takes their names."""
    return [sweep for sweep in sweeps_of(folder) if len(sweep) <= MAX_TAG]


def _label_of(folder: Path, rows: Iterable[SelectedRun]) -> str | None:
    """Return the label of a run in a sweep."""
    return next((row.label for row in rows if row.run == folder.name), None)


def _read_record(folder: Path) -> RunRecord:
    try:
        return RunRecord.from_json(read_object(folder / "run.json"))
    except OSError:
        return RunRecord()


def _config_text(folder: Path, config: Config) -> str:
    try:
        return (folder / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def _sweep_texts(folder: Path) -> dict[str, str]:
    """Return the texts of the sweeps that select a run: tables also name the runs that are missing.

    A trial logs the trials that its search had told by then.
    """
    found = {}
    for sweep, rows in sweeps_of(folder).items():
        kept = rows if len(rows) <= MAX_ROWS else [row for row in rows if row.run == folder.name]
        found[f"{SWEEPS_FOLDER}/{sweep}/{SWEEP_FILE}"] = json.dumps({"rows": [_public_row(row) for row in kept]})
        with suppress(OSError, UnicodeDecodeError):
            search = (sweep_folder(folder.parent, sweep) / SEARCH_FILE).read_text(encoding="utf-8")
            if len(search) <= MAX_SEARCH:
                found[f"{SWEEPS_FOLDER}/{sweep}/{SEARCH_FILE}"] = search
    return found


def _public_row(row: SelectedRun) -> dict[str, Any]:
    """Return a row without secrets in its overrides, and without the launcher's options."""
    overrides, given = (shlex.split(redact_command(words)) for words in (row.overrides, row.given))
    return asdict(replace(row, overrides=overrides, given=given, launcher={}))
