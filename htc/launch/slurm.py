"""Interface to Slurm: query, cancel and requeue jobs by its commands, and submit job arrays by submitit."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from htc.errors import UserError

QUERY_TIMEOUT = 60.0
"""Seconds that a command of Slurm may take."""
PENDING_STATES = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING_STATES = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
MAX_TIMEOUTS = 10**6
"""Number of time limits after which submitit no longer requeues a job: never, as the supervisor decides by progress."""


@dataclass(frozen=True)
class Job:
    """One job as Slurm lists it; Slurm lists a job that has ended for some minutes more."""

    id: str
    """Job id, such as `1234` or `1234_5` in an array."""
    name: str
    state: str
    """State such as `PENDING`, `RUNNING` or `CANCELLED`."""
    node: str
    reason: str
    """Reason why a pending job waits."""

    @property
    def is_pending(self) -> bool:
        return self.state in PENDING_STATES


def is_installed() -> bool:
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def query_jobs(names: Iterable[str]) -> dict[str, Job]:
    """Return all jobs of these names that Slurm lists, by id, of all users. Raises UserError if Slurm does not answer.

    This does not use `sacct`, which needs an accounting database that not every cluster has.
    """
    wanted = sorted(set(names))
    jobs: dict[str, Job] = {}
    # In batches, as the length of a command line is limited.
    for start in range(0, len(wanted), 200):
        chosen = ",".join(wanted[start : start + 200])
        lines = run_slurm(
            "squeue", "--noheader", "--array", "--states=all", f"--name={chosen}", "--format=%i|%j|%T|%N|%r"
        ).splitlines()
        for line in lines:
            listed = Job(*line.split("|", 4))
            jobs |= {each: replace(listed, id=each) for each in job_ids(listed.id)}
    return jobs


def job_ids(listed: str) -> list[str]:
    """Return the job ids of an entry of `squeue`: `7_[0-2,5%4]` -> `7_0`, `7_1`, `7_2`, `7_5`.

    Slurm lists the jobs of an array that were cancelled in the queue as one entry.
    """
    found = re.fullmatch(r"(\d+_)\[([\d,-]+)(?:%\d+)?\]", listed)
    if found is None:
        return [listed]
    ids = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        ids += [f"{found[1]}{task}" for task in range(int(first), int(last or first) + 1)]
    return ids


def cancel_jobs(ids: Sequence[str]) -> None:
    """End jobs, or remove them from the queue. Raises UserError if Slurm refuses."""
    for start in range(0, len(ids), 500):
        run_slurm("scancel", *ids[start : start + 500])


def is_preempted(job: str) -> bool:
    """Return whether Slurm has told a running job to make room for another one. Raises UserError if Slurm fails."""
    return shows_preemption(run_slurm("scontrol", "show", "job", job))


def shows_preemption(text: str) -> bool:
    """Return whether the output of `scontrol show job` shows a running job with a time of preemption."""
    return "JobState=RUNNING" in text and re.search(r"\bPreemptTime=\d", text) is not None


def requeue_job(job: str) -> None:
    """End a job and put it back into the queue. Raises UserError if Slurm refuses."""
    run_slurm("scontrol", "requeue", job)


def run_slurm(*command: str) -> str:
    """Run a command of Slurm and return its output. Raises UserError with Slurm's message if it fails."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no Slurm on this machine ({command[0]} is not found): log in to the cluster, or use "
            "hydra/launcher=local."
        )
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_TIMEOUT, stdin=subprocess.DEVNULL, check=True
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm's controller does not answer {command[0]}: try again when it is back.") from None
    except subprocess.CalledProcessError as error:
        if "configuration source" in error.stderr or "config_source" in error.stderr:
            raise UserError(
                "Slurm is installed on this machine, but belongs to no cluster (it finds no slurm.conf): log in to the "
                "cluster, or use hydra/launcher=local."
            ) from None
        raise UserError(f"{command[0]} failed: {_error_message(error.stderr)}.") from None
    return answer.stdout


def submit_array(
    jobs: Sequence[Callable[[], object]], folder: Path, name: str, options: Mapping[str, Any], setup: list[str]
) -> list[str]:
    """Submit jobs as one array and return their ids.

    Args:
        jobs: Picklable functions that the jobs call.
        folder: Folder of submitit's files and of the jobs' output.
        name: Name of the jobs.
        options: The launcher's options, with the keys of conf/hydra/launcher/slurm.yaml.
        setup: Shell lines that each job runs before those of `options`.

    Raises:
        UserError: Slurm or submitit is not installed, or Slurm refuses the jobs.
    """
    if not is_installed():
        # Raises the UserError for a machine without Slurm.
        run_slurm("sbatch")
    try:
        import submitit
    except ImportError:
        raise UserError("submitit is not installed: pip install submitit.") from None

    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(**sbatch_parameters(name, options, setup))
    errors = io.StringIO()
    try:
        # submitit prints the errors of sbatch to standard error.
        with redirect_stderr(errors), executor.batch(), warnings.catch_warnings():
            # submitit warns that a batch of one job is not an array.
            warnings.simplefilter("ignore")
            submitted = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(_refusal(errors.getvalue() or str(error), options)) from None
    return [job.job_id for job in submitted]


def sbatch_parameters(name: str, options: Mapping[str, Any], setup: list[str]) -> dict[str, Any]:
    """Return the launcher's options as the parameters of submitit."""
    gpus = int(options["gpus_per_node"] or 0)
    extra = dict(sbatch_option(option) for option in options["sbatch"] or [])
    if options["mem"] is not None:
        extra["mem"] = options["mem"]
    parameters = {
        "job_name": name,
        "time": minutes(options["time"]),
        "nodes": options["nodes"],
        "ntasks_per_node": processes_per_node(options),
        "cpus_per_task": options["cpus_per_task"],
        "gpus_per_node": gpus or None,
        "signal_delay_s": options["signal_before"],
        "array_parallelism": options["max_running"],
        "setup": [*setup, *(options["setup"] or [])],
        # Slurm requeues a job whose node fails.
        "additional_parameters": {"requeue": True, **extra},
        **{key: options[key] for key in ("partition", "account", "qos", "constraint")},
    }
    return {key: value for key, value in parameters.items() if value is not None}


def sbatch_option(option: Any) -> tuple[str, Any]:
    """Return the name and value of an option such as `--exclude=node7` or `--hold`. Raises UserError for other text."""
    found = re.fullmatch(r"--([a-z][\w-]*)(?:=(.+))?", str(option))
    if found is None:
        raise UserError(
            f"launcher.sbatch has {option!r}: write options as sbatch has them, in quotes, such as "
            """'launcher.sbatch=["--exclude=node7"]'."""
        )
    return found[1], found[2] or True


def processes_per_node(options: Mapping[str, Any]) -> int:
    """Return the number of processes per node: `tasks_per_node`, or one per GPU."""
    return int(options.get("tasks_per_node") or max(1, int(options.get("gpus_per_node") or 0)))


def array_limit() -> int:
    """Return the maximum number of jobs in one array of this cluster."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_slurm("scontrol", "show", "config"), re.MULTILINE)
    # The highest index of an array is MaxArraySize - 1.
    return max(1, int(found[1]) - 1) if found else 1000


def minutes(time: Any) -> int:
    """Return a time limit of sbatch in minutes, rounded up. Raises UserError for a value that is not a time limit.

    The formats are minutes, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` and `D-HH:MM:SS`.
    """
    text = str(time)
    match = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(?:(\d+):)?(\d+):(\d+)|(\d+))", text)
    if match is None:
        raise UserError(f"launcher.time={text} is not a time: write minutes, HH:MM:SS or D-HH:MM:SS.")
    days, hours, day_minutes, day_seconds, h, m, s, plain = (int(part or 0) for part in match.groups())
    seconds = ((days * 24 + hours + h) * 60 + day_minutes + m + plain) * 60 + day_seconds + s
    if seconds == 0:
        raise UserError(f"launcher.time={text} is zero: write minutes, HH:MM:SS or D-HH:MM:SS.")
    return -(-seconds // 60)


def _refusal(message: str, options: Mapping[str, Any]) -> str:
    """Return the error message of sbatch as one sentence that names the key of the launcher."""
    words = _error_message(message)
    lower = words.lower()
    if "partition" in lower:
        partitions = ", ".join(sorted(set(run_slurm("sinfo", "--noheader", "--format=%R").split())))
        return f"launcher.partition={options['partition']}: Slurm says '{words}'; its partitions are {partitions}."
    for key, hints in {
        "account": ("account",),
        "qos": ("qos",),
        "time": ("time limit", "timelimit"),
        "constraint": ("feature",),
        "mem": ("memory",),
    }.items():
        if any(hint in lower for hint in hints):
            return f"launcher.{key}={options[key]}: Slurm says '{words}'."
    if any(hint in lower for hint in ("node configuration", "node count", "gres", "processors", "nodes")):
        asked = ", ".join(
            f"launcher.{key}={options[key]}" for key in ("nodes", "gpus_per_node", "cpus_per_task", "mem", "partition")
        )
        return f"no nodes of this cluster can give {asked} (Slurm says '{words}'); `sinfo -o '%n %G %c %m'` shows them."
    return f"Slurm refused the jobs: '{words}'."


def _error_message(text: str) -> str:
    """Return the last error in the output of a command of Slurm, without its prefix."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or [line for line in lines if line.startswith("sbatch:")]
    chosen = (errors or lines or ["no reason given"])[-1]
    return re.sub(r"^(?:\w+: )?(?:error: )?(?:Batch job submission failed: )?", "", chosen).strip().rstrip(".")
