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
from htc.launch.slurm import COMMENT
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
    label: str | None = None
    """Label of the row in its sweep."""


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
    """Slurm's job ids, such as `1234_5`; None until they are known, and for the local launcher.

    There is one job per run, in the same order, or `launcher.submit_limit` jobs, each of which claims one run after the
    other.
    """
    launch: str = ""
    """Id that the submissions of one launch share."""
    created: str = field(default_factory=now)
    user: str = field(default_factory=getpass.getuser)
    uid: int = field(default_factory=os.getuid)
    """Id of the user whose jobs they are."""
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
    def comment(self) -> str:
        """Comment of the jobs in Slurm, so that they are found even if their ids were never recorded."""
        return f"{COMMENT}{self.id}"

    @property
    def is_shared(self) -> bool:
        """Whether the runs share fewer jobs, which claim them one after the other."""
        return len(self.jobs) < len(self.runs)

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

    @property
    def stop_file(self) -> Path:
        """Path of the file that exists once a failure has stopped the other runs of the launch."""
        return self.path.parent / f"{self.launch or self.id}.stopped"

    @property
    def is_stopped(self) -> bool:
        return self.stop_file.exists()

    def claim_folder(self, index: int) -> Path:
        """Path of the folder that the job creates which claims a run; its file `slot` has the index of the job."""
        return self.path / "claims" / str(index)

    def slot(self, index: int) -> int | None:
        """Return the index of the job of a run, among `jobs`; None as long as no job has claimed it."""
        if not self.is_shared:
            return index
        try:
            return int((self.claim_folder(index) / "slot").read_text())
        except (OSError, ValueError):
            return None

    def claimed(self, slot: int) -> list[int]:
        """Return the runs that a job has claimed, in this order."""
        return [index for index in range(len(self.runs)) if self.slot(index) == slot]

    def failed_to_begin(self, slot: int) -> bool:
        """Return whether a job ended with an error before it began with a run."""
        return (self.path / f"{slot}.failed").exists()

    def error_file(self, index: int) -> Path:
        """Path of the file to which a run's process writes the sentence of a UserError."""
        return self.path / f"{index}.error"

    def may_start(self, record: RunRecord) -> bool:
        """Return whether this submission may start a run with this record.

        It may not if the run was cancelled, if a later submission contains it, or if a failure stopped the launch.
        """
        submission = record.launch.submission if record.launch is not None else None
        return not record.cancelled and submission in (None, self.id) and not self.is_stopped

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
