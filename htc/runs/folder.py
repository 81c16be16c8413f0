"""A run's folder: its configuration, its state, its metrics, its results, its log.

PyTorch is not imported until a run starts: whoever only reads folders (status, launching) stays quick.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import htc
from htc.config.schema import Config
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from htc.runs import provenance as environment
from htc.runs.files import atomic_path, atomic_write, plain_json, remove_left_behind, write_json
from htc.runs.json_values import items, number
from htc.runs.logs import send_logs

logger = logging.getLogger(__name__)

STATUSES = ("queued", "running", "preempted", "failed", "done")


class RunFolder:
    """One run on disk. Only one process writes: the first of a distributed run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.run_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.predictions = self.path / "predictions"

    def read(self, *, strict: bool = False) -> dict[str, Any]:
        """What run.json says; empty where there is none, or a damaged one.

        One that the disk does not give, if only for a moment, is empty to who looks; `strict` is for who acts upon what
        it says, and raises UserError.
        """
        try:
            return _read_object(self.run_file)
        except OSError as error:
            if not strict:
                return {}
            raise UserError(
                f"{self.run_file} could not be read ({error.strerror}): make it readable and start the same command "
                "again."
            ) from None

    def update(self, **changes: Any) -> None:
        """Change keys of run.json and keep all others, also those of which this class knows nothing.

        Raises UserError where run.json cannot be read, and OSError where the file cannot be written.
        """
        write_json(self.run_file, {**self.read(strict=True), **changes})

    @property
    def done(self) -> bool:
        """Whether the run ended well and its results are here. Raises UserError where run.json cannot be read."""
        return self.read(strict=True).get("status") == "done" and self.results_file.is_file()

    def start(
        self,
        command: Sequence[str],
        config: Config,
        *,
        resume: bool,
        step: int = 0,
        length: int | None = None,
        keep_evaluation: bool = True,
    ) -> None:
        """Record that the run starts, or goes on after `step` iterations.

        A run that starts anew in a folder with an earlier attempt drops that attempt's metrics; one that goes on drops
        the lines that it is about to make again, as `rewind` says, and says what it is where run.json does not.
        Raises UserError where run.json cannot be read, and OSError where a file cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before = self.read(strict=True)
        for folder in (self.path, self.predictions):
            remove_left_behind(folder)
        job = environment.slurm_job_id()
        jobs = items(before.get("slurm_job_ids"))
        changes: dict[str, Any] = {
            "status": "running",
            "slurm_job_ids": [*jobs, job] if job and job not in jobs else jobs,
            "end": None,
            "error": None,
        }
        if resume:
            self.rewind(step, length, keep_evaluation=keep_evaluation)
            again = {"time": now(), "step": step, "host": socket.gethostname(), "slurm_job_id": job}
            changes["resumes"] = [*items(before.get("resumes")), again]
        else:
            self.metrics_file.unlink(missing_ok=True)
            changes["resumes"] = []
        if not (resume and before.get("start")):
            changes |= self._identity(command, config)
        self.update(**changes)

    def _identity(self, command: Sequence[str], config: Config) -> dict[str, Any]:
        """Write config.yaml -> what run.json says of a run that does not change while it goes on."""
        # PyTorch is imported only here: status and launching read folders without it.
        from htc.distributed.devices import visible_devices

        with atomic_write(self.config_file) as file:
            yaml.safe_dump(to_plain(config), file, sort_keys=False, allow_unicode=True)
        return {
            "name": config.name,
            "sweep": config.sweep,
            "signature": signature(config),
            "command": environment.redact_command(command),
            "git": environment.git_facts(Path(htc.__file__).parent),
            "versions": environment.versions(),
            "host": socket.gethostname(),
            "devices": visible_devices(config.device),
            "start": now(),
        }

    def set_status(self, status: str, error: str | None = None) -> None:
        """Record how the run stands; anything but `queued` and `running` is an end, with its time."""
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of {', '.join(STATUSES)}")
        ended = status in ("preempted", "failed", "done")
        safe = environment.redact(error) if error is not None else None
        self.update(status=status, end=now() if ended else None, error=safe)

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl, whole and at once; numbers that are not finite become null."""
        line = json.dumps(plain_json(dict(metrics)), allow_nan=False) + "\n"
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; what a crash left of a line is passed over."""
        if not self.metrics_file.exists():
            return []
        return [metrics for _, metrics in _whole_lines(self.metrics_file.read_bytes())]

    def metrics_length(self) -> int:
        """Bytes of metrics.jsonl, all of them on the disk when this returns."""
        if not self.metrics_file.exists():
            return 0
        with self.metrics_file.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def rewind(self, step: int, length: int | None = None, *, keep_evaluation: bool = True) -> None:
        """Bring metrics.jsonl back to where it was `length` bytes long, when `step` iterations were done.

        The evaluation that came after the checkpoint of that step stays, unless not `keep_evaluation`; nothing else
        beyond does, nor what a crash left of a line. Without a length, or where the file is shorter, lines go by their
        step alone.
        """
        content = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        if length is not None and len(content) < length:
            logger.warning("%s is shorter than at the last checkpoint: lines of it are lost", self.metrics_file)
            length = None
        if not content:
            return
        kept = b"" if length is None else content[:length]
        for line, metrics in _whole_lines(content[len(kept) :]):
            at, evaluation = number(metrics.get("step")) or 0, metrics.get("kind") == "eval"
            beyond = at > step or (at == step and length is not None and not evaluation)
            if not beyond and not (evaluation and at == step and not keep_evaluation):
                kept += line
        with atomic_path(self.metrics_file) as temporary:
            temporary.write_bytes(kept)

    def has_evaluation(self, step: int) -> bool:
        """Whether metrics.jsonl has an evaluation at a step."""
        return any(line.get("kind") == "eval" and line.get("step") == step for line in self.read_metrics())

    def read_results(self) -> dict[str, Any]:
        """What results.json says; empty where there is none, or none that can be read."""
        try:
            return _read_object(self.results_file)
        except OSError:
            return {}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json, atomically: it is there when the run is done."""
        write_json(self.results_file, dict(results))

    def setup_logging(self, *, main: bool = True) -> None:
        """Send what the package logs to log.txt and to the terminal; other processes than the main one only warn."""
        if main:
            self.path.mkdir(parents=True, exist_ok=True)
        send_logs(self.log_file if main else None)


def find_folder(config: Config) -> tuple[Path, bool]:
    """The folder of a configuration, and whether its run is already done.

    A folder with the same signature is the same run, also under another name. With `config.force`, a finished one is
    left alone and the run has a folder beside it, the first of `-r2`, `-r3`, ... that is not finished: started again
    after an interruption, a forced run goes on where it was. Raises UserError where a run.json cannot be read.
    """
    parent = Path(config.runs) / config.sweep
    mark = signature(config)
    own = folder_name(config, mark)
    path = _existing(parent, own, mark) or parent / own
    done = RunFolder(path).done
    if not (config.force and done):
        return path, done
    number = 2
    while RunFolder(beside := path.with_name(f"{path.name}-r{number}")).done:
        number += 1
    return beside, False


def folder_name(config: Config, mark: str) -> str:
    """The name of the folder that a run of this signature has, where there is none for it yet."""
    return re.sub(r"[^\w.+=,@-]+", "_", config.name or "run") + f"-{mark}"


def _existing(parent: Path, own: str, mark: str) -> Path | None:
    """The folder of this signature: under the name asked for, else a finished one, else any."""
    found = sorted(path for path in parent.glob(f"*-{mark}") if path.is_dir())
    return min(found, key=lambda path: (path.name != own, not RunFolder(path).done), default=None)


def _whole_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line that is a JSON object, as it stands (with a line's end) and as it reads."""
    for line in content.splitlines():
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(metrics, dict):
            yield line + b"\n", metrics


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no file, or none that holds one. Raises OSError for other reasons."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
