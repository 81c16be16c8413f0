"""Where the numbers of a row come from: its runs with their commands, code, machines and evaluations."""

from __future__ import annotations

import json
import math
from pathlib import Path

from analysis.report.contents import Origin, RunOrigin
from analysis.runs import Run
from analysis.study import StudyRow
from htc.runs.evaluations import evaluation_at
from htc.runs.files import read_object
from htc.runs.json_values import mapping, text
from htc.runs.record import RunRecord
from htc.runs.redaction import redact

MAX_FACT = 2000
"""Most characters of one fact."""


def origin_of(row: StudyRow, pool: Path, evaluation: str) -> Origin:
    """Return where the numbers of a row come from.

    Args:
        row: the row, with finished runs.
        pool: folder of runs.
        evaluation: name of the evaluation that is shown.
    """
    return Origin(row.label, [run_origin(run, pool, evaluation) for run in row.runs])


def run_origin(run: Run, pool: Path, evaluation: str) -> RunOrigin:
    """Return where the numbers of a run come from; facts that are not recorded are left out."""
    folder = pool / run.folder
    record = RunRecord.from_json(_read(folder / "run.json"))
    results = evaluation_at(folder, evaluation).read()
    data = mapping(results.get("data"))
    evaluated_by = mapping(results.get("git")).get("commit")
    facts = {
        "command": redact(record.command or ""),
        "trained by code": run.code,
        "trained": _span(record),
        "on": ", ".join(text(each) or json.dumps(each) for each in record.devices),
        "host": record.host or "",
        "Slurm job": ", ".join(str(each) for each in record.slurm_job_ids),
        "continues": run.continues,
        "predictions": ", ".join(
            Path(each).name for each in mapping(results.get("predictions")).values() if text(each)
        ),
        "evaluation": evaluation if record.status else "",
        "evaluated": text(results.get("evaluated")) or "",
        "evaluated by code": evaluated_by[:7] if isinstance(evaluated_by, str) else "",
        "on images": _images(run, text(results.get("annotation_file")), text(data.get("annotations"))),
        "settings of the evaluation": _settings(mapping(results.get("settings"))),
        "speed": f"{run.fps:.2f} images/s ({run.conditions})" if math.isfinite(run.fps) else "",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    values = {key: value for key, value in {**run.metrics, "fps": run.fps}.items() if math.isfinite(value)}
    return RunOrigin(run.folder, run.seed, {key: value[:MAX_FACT] for key, value in facts.items() if value}, values)


def _read(path: Path) -> dict[str, object]:
    try:
        return read_object(path)
    except OSError:
        return {}


def _span(record: RunRecord) -> str:
    return " to ".join(each for each in (record.start, record.end) if each)


def _images(run: Run, file: str | None, digest: str | None) -> str:
    if run.images is None:
        return ""
    words = f"{run.images} images"
    if file:
        # Without its folder: a report is sent to others.
        words += f" of {Path(file).name}"
    return words + (f" (SHA-256 {digest[:12]}…)" if digest else "")


def _settings(settings: dict[str, object]) -> str:
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in sorted(settings.items())
        if key.startswith("eval.")
    )
