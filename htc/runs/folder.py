"""A run's folder: its configuration, record, metrics, results and log.

PyTorch is imported only when a run starts: status and launching read folders without it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import htc
from htc.config.evaluation import evaluated_data
from htc.config.schema import Config, EvalConfig
from htc.config.signature import identity, signature, to_plain
from htc.errors import UserError
from htc.runs.evaluations import EVALUATIONS_FOLDER, EvaluationFolder, evaluation_folder, evaluation_names
from htc.runs.files import atomic_path, atomic_write, plain_json, read_object, remove_unfinished, write_json
from htc.runs.json_values import mapping, number
from htc.runs.logs import send_logs
from htc.runs.provenance import git_facts, slurm_job_id, versions
from htc.runs.record import STATUSES, Parent, Resume, RunRecord, SplitFingerprint
from htc.runs.redaction import redact, redact_command

logger = logging.getLogger(__name__)


class RunFolder:
    """One run on disk. Only one process writes: the main one of a distributed run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.run_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.evaluations = self.path / EVALUATIONS_FOLDER

    def read(self, *, strict: bool = False) -> RunRecord:
        """Return the content of run.json; an empty record where the file is missing or damaged.

        A disk may fail to read the file for a moment. A caller that only displays the record then gets an empty one;
        a caller that acts on the content passes `strict`, and gets a UserError.
        """
        try:
            return RunRecord.from_json(read_object(self.run_file))
        except OSError as error:
            if not strict:
                return RunRecord()
            raise UserError(
                f"{self.run_file} could not be read ({error.strerror}): make it readable and start the same command "
                "again."
            ) from None

    def write(self, record: RunRecord) -> None:
        """Write run.json, atomically. Raises OSError where the file cannot be written."""
        write_json(self.run_file, record.to_json())

    def update(self, **changes: Any) -> None:
        """Change fields of the record and keep all others.

        Raises UserError where run.json cannot be read, and OSError where it cannot be written.
        """
        self.write(replace(self.read(strict=True), **changes))

    def read_config(self) -> dict[str, Any]:
        """Return the content of config.yaml; an empty dict where the file is missing or damaged."""
        try:
            text = self.config_file.read_text(encoding="utf-8")
            return mapping(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return {}

    @property
    def trained(self) -> bool:
        """Whether the training has ended and was evaluated. Raises UserError where run.json cannot be read."""
        return self.read(strict=True).status == "done"

    def evaluation(self, name: str) -> EvaluationFolder:
        """Return the folder of an evaluation."""
        return evaluation_folder(self.path, name)

    def has_results(self, evaluation: str | None = None) -> bool:
        """Return whether the run has the results of an evaluation; of any evaluation, if none is named."""
        if evaluation is not None:
            return self.evaluation(evaluation).complete
        return bool(evaluation_names(self.path))

    def read_results(self, evaluation: str | None = None) -> dict[str, Any]:
        """Return the results of an evaluation; an empty dict where there are none.

        evaluation: name of the evaluation; None for that of the default settings, or else the first one.
        """
        names = evaluation_names(self.path) if evaluation is None else [evaluation]
        chosen = next((name for name in names if name == EvalConfig.name), names[0] if names else None)
        return {} if chosen is None else self.evaluation(chosen).read()

    def start(
        self,
        command: Sequence[str],
        config: Config,
        *,
        resume: bool,
        step: int = 0,
        length: int | None = None,
        keep_evaluation: bool = True,
        data: Mapping[str, SplitFingerprint] | None = None,
        parent: Parent | None = None,
    ) -> None:
        """Record that the run starts, or continues after `step` iterations.

        A run that starts again in the folder of an earlier attempt drops that attempt's metrics. A run that continues
        drops the metrics that it is about to write again, and writes its identity where run.json has lost it.

        Args:
            command: the command line, for the record.
            config: the run's configuration, written to config.yaml.
            resume: whether the run continues from a checkpoint.
            step: iterations at that checkpoint.
            length: bytes of metrics.jsonl at that checkpoint; see `rewind`.
            keep_evaluation: whether an evaluation at `step` is kept; see `rewind`.
            data: fingerprints of the splits `train` and `val`.
            parent: the run that this one continues.

        Raises:
            UserError: where run.json cannot be read.
            OSError: where a file cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before = self.read(strict=True)
        for folder in (self.path, *self.evaluations.glob("*")):
            remove_unfinished(folder)
        job = slurm_job_id()
        jobs = before.slurm_job_ids
        resumes: list[Resume] = []
        if resume:
            self.rewind(step, length, keep_evaluation=keep_evaluation)
            resumes = [*before.resumes, Resume(now(), step, socket.gethostname(), job)]
        else:
            self.metrics_file.unlink(missing_ok=True)
        if not (resume and before.start):
            before = self._identify(before, command, config)
        before = replace(
            before,
            data={**(data or {}), **(before.data if resume else {})},
            evaluated_data=evaluated_data(to_plain(config)),
            parent=before.parent if resume else parent,
        )
        jobs = [*jobs, job] if job and job not in jobs else jobs
        self.write(replace(before, status="running", slurm_job_ids=jobs, end=None, error=None, resumes=resumes))

    def _identify(self, record: RunRecord, command: Sequence[str], config: Config) -> RunRecord:
        """Write config.yaml, and return the record with everything that stays the same while the run continues."""
        # PyTorch is imported only here.
        from htc.distributed.devices import visible_devices

        with atomic_write(self.config_file) as file:
            yaml.safe_dump(to_plain(config), file, sort_keys=False, allow_unicode=True)
        return replace(
            record,
            name=config.name,
            signature=signature(config),
            identity=identity(to_plain(config)),
            command=redact_command(command),
            git=git_facts(Path(htc.__file__).parent),
            versions=versions(),
            host=socket.gethostname(),
            devices=visible_devices(config.device),
            start=now(),
        )

    def set_status(self, status: str, error: str | None = None) -> None:
        """Record the status of the run; every status but `queued` and `running` is an end, with its time."""
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of {', '.join(STATUSES)}")
        ended = status in ("preempted", "failed", "done")
        self.update(status=status, end=now() if ended else None, error=None if error is None else redact(error))

    def fail(self, error: str) -> None:
        """Record why the run failed. A trained run stays done: only one of its evaluations failed."""
        if self.read(strict=True).status == "done":
            self.update(error=redact(error))
        else:
            self.set_status("failed", error)

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one complete line to metrics.jsonl; numbers that are not finite become null."""
        line = json.dumps(plain_json(dict(metrics)), allow_nan=False) + "\n"
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the complete lines of metrics.jsonl; the remains of a line that a crash cut off are skipped."""
        if not self.metrics_file.exists():
            return []
        return [metrics for _, metrics in _complete_lines(self.metrics_file.read_bytes())]

    def metrics_length(self) -> int:
        """Return the number of bytes of metrics.jsonl, after they have reached the disk."""
        if not self.metrics_file.exists():
            return 0
        with self.metrics_file.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def rewind(self, step: int, length: int | None = None, *, keep_evaluation: bool = True) -> None:
        """Bring metrics.jsonl back to the state of a checkpoint.

        Args:
            step: iterations at the checkpoint.
            length: bytes of the file at the checkpoint. All later lines are dropped, except for an evaluation at
                `step`, which came after the checkpoint. Without a length, or where the file is shorter, the lines are
                selected by their step alone.
            keep_evaluation: whether an evaluation at `step` is kept.
        """
        content = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        if length is not None and len(content) < length:
            logger.warning("%s is shorter than at the last checkpoint: lines of it are lost", self.metrics_file)
            length = None
        if not content:
            return
        kept = b"" if length is None else content[:length]
        for line, metrics in _complete_lines(content[len(kept) :]):
            at, evaluation = number(metrics.get("step")) or 0, metrics.get("kind") == "eval"
            beyond = at > step or (at == step and length is not None and not evaluation)
            if not beyond and not (evaluation and at == step and not keep_evaluation):
                kept += line
        with atomic_path(self.metrics_file) as temporary:
            temporary.write_bytes(kept)

    def has_evaluation(self, step: int) -> bool:
        """Return whether metrics.jsonl has an evaluation at a step."""
        return any(line.get("kind") == "eval" and line.get("step") == step for line in self.read_metrics())

    def setup_logging(self, *, main: bool = True) -> None:
        """Send the package's log to log.txt and the terminal; processes other than the main one show only warnings."""
        if main:
            self.path.mkdir(parents=True, exist_ok=True)
        send_logs(self.log_file if main else None)


def find_folder(config: Config, names: Sequence[str] | None = None) -> Path:
    """Return the folder of a configuration's run, which need not exist yet.

    A folder with the same signature is the same run, also under another name. With `config.force`, a trained run keeps
    its folder and the run gets another one next to it, the first of `-r2`, `-r3`, ... that is not trained: a forced run
    that was interrupted continues where it was. Raises UserError where a run.json cannot be read.

    Args:
        config: the configuration.
        names: the folders in `runs` that have its signature; None: they are looked for.
    """
    pool = Path(config.runs)
    run_signature = signature(config)
    own = folder_name(config, run_signature)
    if names is None:
        names = [path.name for path in pool.glob(f"*-{run_signature}") if path.is_dir()]
    existing = sorted(name for name in names if name.endswith(run_signature))
    name = own
    if existing and own not in existing:
        name = next((each for each in existing if RunFolder(pool / each).trained), existing[0])
    path = pool / name
    if not (config.force and RunFolder(path).trained):
        return path
    attempt = 2
    while RunFolder(forced := path.with_name(f"{path.name}-r{attempt}")).trained:
        attempt += 1
    return forced


def folder_name(config: Config, run_signature: str) -> str:
    """Return the name of a new folder for a run with this signature."""
    return re.sub(r"[^\w.+=,@-]+", "_", config.name or "run") + f"-{run_signature}"


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _complete_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each line that is a JSON object: its bytes, with a line end, and the object."""
    for line in content.splitlines():
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(metrics, dict):
            yield line + b"\n", metrics
