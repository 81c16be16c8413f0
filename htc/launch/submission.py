"""What was submitted, on disk: `runs/<sweep>/.launch/<submission>/`, beside the code that its jobs run.

`submission.json` names the runs and their jobs and stays small: every status reads it. `rows.jsonl` holds the runs'
configurations, which only the jobs and a retry need.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from htc.runs.files import write_json
from htc.runs.folder import now
from htc.runs.json_values import mapping

LAUNCH_FOLDER = ".launch"


@dataclass
class Row:
    """One run of a submission."""

    folder: str
    """Name of the run's folder below the sweep's."""
    config: dict[str, Any]
    """As config.yaml holds it."""
    overrides: list[str]
    """What a person would give `python -m htc.run` to get this run."""


@dataclass
class Submission:
    """Runs that were handed to a launcher together."""

    id: str
    launcher: str
    """`slurm` or `local`."""
    options: dict[str, Any]
    """Of the launcher, as conf/hydra/launcher has them."""
    code: str
    cwd: str
    runs: list[str]
    jobs: list[str | None]
    """Slurm's job id of each run, such as `1234_5`; null until it is known, and for the local launcher."""
    created: str = field(default_factory=now)
    user: str = field(default_factory=getpass.getuser)
    host: str = field(default_factory=socket.gethostname)
    path: Path = field(default=Path())

    @property
    def job_name(self) -> str:
        """The name of its jobs in Slurm: theirs alone, so that they are found even if their ids were never noted."""
        return re.sub(r"[^\w.-]+", "_", f"{self.path.parent.parent.name}-{self.id}")

    @property
    def code_environment(self) -> dict[str, str]:
        """Environment variables with which Python imports the submission's copy of the code, and no other one."""
        path = os.pathsep.join([self.code, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    @cached_property
    def positions(self) -> dict[str, int]:
        """The row of each run."""
        return {run: number for number, run in enumerate(self.runs)}

    @property
    def manager_lock(self) -> Path:
        """Held for as long as the local launcher works on this submission."""
        return self.path / "manager.lock"

    def error_file(self, index: int) -> Path:
        """What a run's process leaves here where the user has to mend something: a sentence."""
        return self.path / f"{index}.error"

    def wants(self, record: Mapping[str, Any]) -> bool:
        """Whether a run, by its run.json, is this submission's to start: neither cancelled nor submitted anew since."""
        launch = mapping(record.get("launch"))
        return not launch.get("cancelled") and launch.get("submission", self.id) == self.id

    def write(self) -> None:
        record = asdict(self)
        del record["path"]
        write_json(self.path / "submission.json", record)

    def write_rows(self, rows: list[Row]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # A line a row: a job reads its own alone.
        text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (self.path / "rows.jsonl").write_text(text, encoding="utf-8")

    def row(self, index: int) -> Row:
        """Raises OSError, ValueError, TypeError or IndexError where there is none that can be read."""
        with (self.path / "rows.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if number == index:
                    return Row(**json.loads(line))
        raise IndexError(f"{self.path} has no row {index}")

    @classmethod
    def read(cls, path: Path) -> Submission:
        """Raises OSError, ValueError or TypeError where there is none that can be read."""
        record = json.loads((path / "submission.json").read_text(encoding="utf-8"))
        submission = cls(**record, path=path)
        if not all(map(is_folder_name, submission.runs)) or not all(map(is_job_id, submission.jobs)):
            raise ValueError(f"{path} names what is neither a run's folder nor a job")
        return submission


def is_folder_name(name: Any) -> bool:
    """Whether it can be a run's folder, below the sweep's own; a sweep's folder may come from anybody."""
    return isinstance(name, str) and "/" not in name and "\0" not in name and name not in ("", ".", "..", LAUNCH_FOLDER)


def is_job_id(job: Any) -> bool:
    """Whether it is null or a job's id, and nothing else that `scancel` would understand."""
    return job is None or (isinstance(job, str) and re.fullmatch(r"\d+(_\d+)?", job) is not None)


def new_submission_path(sweep_folder: Path) -> Path:
    """A folder for a submission; names sort by time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return sweep_folder / LAUNCH_FOLDER / f"{stamp}-{uuid.uuid4().hex[:6]}"


def read_submissions(sweep_folder: Path) -> list[Submission]:
    """All submissions of a sweep, oldest first; one that cannot be read is passed over."""
    folder = sweep_folder / LAUNCH_FOLDER
    found = []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        try:
            found.append(Submission.read(folder / name))
        except (OSError, ValueError, TypeError):
            continue
    return found


def code_folder(sweep_folder: Path) -> Path:
    return sweep_folder / LAUNCH_FOLDER / "code"


def launch_lock(sweep_folder: Path) -> Path:
    return sweep_folder / LAUNCH_FOLDER / "lock"


def supervisor_lock(sweep_folder: Path, run: str) -> Path:
    """Held by the process that watches over a run, and by the run's own."""
    return sweep_folder / LAUNCH_FOLDER / "locks" / f"{run}.lock"
