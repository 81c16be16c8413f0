"""The evaluations of a run: for each set of settings, a folder with its results and predictions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from htc.runs.files import read_object, write_json

EVALUATIONS_FOLDER = "evaluations"
RESULTS_FILE = "results.json"


class EvaluationFolder:
    """One evaluation on disk: `evaluations/<name>/` in a run's folder, or a folder that the user names.

    results.json is written last, so an evaluation that has it is complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results_file = path / RESULTS_FILE

    @property
    def complete(self) -> bool:
        """Whether the evaluation has its results."""
        return self.results_file.is_file()

    def read(self) -> dict[str, Any]:
        """Return the content of results.json; an empty dict where the file is missing or damaged."""
        try:
            return read_object(self.results_file)
        except OSError:
            return {}

    def write(self, results: Mapping[str, Any]) -> None:
        """Write results.json, atomically."""
        write_json(self.results_file, dict(results))


def is_evaluation_name(name: Any) -> bool:
    """Return whether a value can be the name of an evaluation, and does not lead out of the run's folder."""
    return isinstance(name, str) and re.fullmatch(r"[\w.+=,@-]+", name) is not None and name.strip(".") != ""


def evaluation_folder(run: Path, name: str) -> EvaluationFolder:
    """Return the folder of an evaluation of a run. Raises ValueError for a name that leads out of the run's folder."""
    if not is_evaluation_name(name):
        raise ValueError(f"{name!r} cannot be the name of an evaluation")
    return EvaluationFolder(run / EVALUATIONS_FOLDER / name)


def evaluation_at(folder: Path, name: str) -> EvaluationFolder:
    """Return an evaluation of a run, or the folder itself if it has the results of another system and no run."""
    own = EvaluationFolder(folder)
    return own if own.complete and not (folder / "run.json").exists() else evaluation_folder(folder, name)


def evaluation_names(run: Path) -> list[str]:
    """Return the names of the complete evaluations of a run."""
    # Tables ask this of each of 10,000 runs, and Path.glob takes four times as long.
    try:
        entries = list(os.scandir(run / EVALUATIONS_FOLDER))
    except OSError:
        return []
    return sorted(entry.name for entry in entries if Path(entry.path, RESULTS_FILE).exists())
