"""Submissions on disk: `runs/.sweeps/<sweep>/submissions/<submission>/`, next to the code that their jobs run.

`submission.json` names the runs and their jobs, and is small because every status reads it. `rows.jsonl` holds the
configurations of the runs, which only the jobs and a retry need.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from htc.config.schema import EvalConfig
from htc.runs.files import write_json
from htc.runs.folder import now
from htc.runs.pool import SWEEPS_FOLDER, is_run_name
from htc.runs.record import Launch, Length, RunRecord

SUBMISSIONS_FOLDER = "submissions"


@dataclass
class Row:
    """One run of a submission."""

    folder: str
    """Name of the run's folder."""
    config: dict[str, Any]
    """Configuration of the run, with the content of config.yaml."""
    overrides: list[str]
    """Arguments with which `python -m htc.run` starts this run."""
    evaluation: str = EvalConfig.name
    """Name of the evaluation that ends the run."""


@dataclass
class Submission:
    """Runs that were handed to a launcher together, and the jobs that run them."""

    id: str
    launcher: str
    """`slurm` or `local`."""
    options: dict[str, Any]
    """Options of the launcher, with the keys of conf/hydra/launcher."""
    code: str
    """Root of the copy of the code that the jobs run."""
    cwd: str
    """Working directory of the jobs."""
    runs: list[str]
    """Names of the run folders, in the order of the rows."""
    jobs: list[str | None]
    """Slurm's job id of each run, such as `1234_5`; None until it is known, and for the local launcher."""
    created: str = field(default_factory=now)
    user: str = field(default_factory=getpass.getuser)
    host: str = field(default_factory=socket.gethostname)
    path: Path = field(default=Path())
    """Folder of the submission; not written to submission.json."""

    @property
    def pool(self) -> Path:
        """Folder of all runs."""
        return self.path.parents[3]

    @property
    def sweep(self) -> str:
        """Name of the sweep that the runs were submitted for."""
        return self.path.parents[1].name

    @property
    def job_name(self) -> str:
        """Name of the jobs in Slurm. It is unique, so that the jobs are found even if their ids were never recorded."""
        return re.sub(r"[^\w.-]+", "_", f"{self.sweep}-{self.id}")

    @property
    def code_environment(self) -> dict[str, str]:
        """Environment variables with which Python imports the submission's copy of the code, and no other one."""
        path = os.pathsep.join([self.code, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    @cached_property
    def positions(self) -> dict[str, int]:
        """Row index of each run."""
        return {run: number for number, run in enumerate(self.runs)}

    @property
    def manager_lock(self) -> Path:
        """Path of the lock that the local launcher holds while it works on this submission."""
        return self.path / "manager.lock"

    def error_file(self, index: int) -> Path:
        """Path of the file to which a run's process writes the sentence of a UserError."""
        return self.path / f"{index}.error"

    def may_start(self, record: RunRecord) -> bool:
        """Return whether this submission may start a run with this record.

        It may not if the run was cancelled, or if a later submission contains it.
        """
        submission = record.launch.submission if record.launch is not None else None
        return not record.cancelled and submission in (None, self.id)

    def launch_record(self, row: Row) -> Launch:
        """Return the entry of run.json about the launch of a row."""
        return Launch(
            submission=self.id,
            launcher=self.launcher,
            submitted=now(),
            code=self.code,
            length=Length.from_json(row.config["schedule"]),
        )

    def write(self) -> None:
        """Write submission.json."""
        record = asdict(self)
        del record["path"]
        write_json(self.path / "submission.json", record)

    def write_rows(self, rows: list[Row]) -> None:
        """Write rows.jsonl with one line per row, so that a job parses only its own."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (self.path / "rows.jsonl").write_text(text, encoding="utf-8")

    def row(self, index: int) -> Row:
        """Read one row. Raises OSError, ValueError, TypeError or IndexError if it cannot be read."""
        with (self.path / "rows.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if number == index:
                    return Row(**json.loads(line))
        raise IndexError(f"{self.path} has no row {index}")

    @classmethod
    def read(cls, path: Path) -> Submission:
        """Read the submission of a folder. Raises OSError, ValueError or TypeError if it cannot be read."""
        record = json.loads((path / "submission.json").read_text(encoding="utf-8"))
        submission = cls(**record, path=path)
        if not all(map(is_run_name, submission.runs)) or not all(map(is_job_id, submission.jobs)):
            raise ValueError(f"{path} has a run or a job whose name is not valid")
        return submission


def is_job_id(job: Any) -> bool:
    """Return whether a value is None or a job id, and no other argument of `scancel`."""
    return job is None or (isinstance(job, str) and re.fullmatch(r"\d+(_\d+)?", job) is not None)


def new_submission_path(sweep_folder: Path) -> Path:
    """Return the path of a new submission's folder; the names sort by time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return sweep_folder / SUBMISSIONS_FOLDER / f"{stamp}-{uuid.uuid4().hex[:6]}"


def read_submissions(pool: Path) -> list[Submission]:
    """Return all submissions of a pool, oldest first, without those that cannot be read."""
    found = []
    for path in pool.glob(f"{SWEEPS_FOLDER}/*/{SUBMISSIONS_FOLDER}/*"):
        try:
            found.append(Submission.read(path))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda submission: submission.id)


def code_folder(sweep_folder: Path) -> Path:
    """Return the folder that holds the copies of the code."""
    return sweep_folder / "code"
