"""Slurm's commands: query, cancel, rename and requeue jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from htc.errors import UserError

QUERY_TIMEOUT = 60.0
"""Seconds that a command of Slurm may take."""
PENDING_STATES = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING_STATES = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
ENDED_BADLY = ("FAILED", "BOOT_FAIL", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""States of jobs that have ended without having been cancelled or preempted."""
COMMENT = "htc:"
"""Beginning of the comment of this project's jobs, before the id of their submission."""


@dataclass(frozen=True)
class Job:
    """One job as Slurm lists it; Slurm lists a job that has ended for some minutes more."""

    id: str
    """Job id, such as `1234` or `1234_5` in an array."""
    submission: str
    """Id of the submission, from the comment of the job; empty for a job of another program."""
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


def query_jobs(users: Iterable[int]) -> list[Job]:
    """Return all jobs of these users that Slurm lists. Raises UserError if Slurm does not answer.

    This does not use `sacct`, which needs an accounting database that not every cluster has.

    Args:
        users: User ids.
    """
    chosen = ",".join(str(user) for user in sorted(set(users)))
    text = run_slurm(
        "squeue", "--noheader", "--array", "--states=all", f"--user={chosen}", "--format=%i|%T|%N|%r|%k"
    )  # fmt: skip
    jobs = []
    for line in text.splitlines():
        number, state, node, reason, comment = (line.split("|", 4) + [""] * 4)[:5]
        # A comment of another program may have several lines.
        if not state:
            continue
        listed = Job(number, submission_of(comment), state, node, reason)
        jobs += [replace(listed, id=each) for each in job_ids(number)]
    return jobs


def submission_of(comment: str) -> str:
    """Return the id of the submission that the comment of a job names; empty if it names none."""
    first = comment.split(" ", 1)[0]
    return first.removeprefix(COMMENT) if first.startswith(COMMENT) else ""


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


def cancel_pending_jobs(array: str) -> None:
    """Remove the jobs of an array from the queue that have not begun. Raises UserError if Slurm refuses."""
    run_slurm("scancel", "--state=PENDING", array)


def is_preempted(job: str) -> bool:
    """Return whether Slurm has told a running job to make room for another one. Raises UserError if Slurm fails."""
    return shows_preemption(run_slurm("scontrol", "show", "job", job))


def shows_preemption(text: str) -> bool:
    """Return whether the output of `scontrol show job` shows a running job with a time of preemption."""
    return "JobState=RUNNING" in text and re.search(r"\bPreemptTime=\d", text) is not None


def requeue_job(job: str) -> None:
    """End a job and put it back into the queue. Raises UserError if Slurm refuses."""
    run_slurm("scontrol", "requeue", job)


def rename_job(job: str, name: str) -> None:
    """Give a running job a name without waiting for Slurm; a failure is ignored."""
    nothing = subprocess.DEVNULL
    with suppress(OSError):
        command = ["scontrol", "update", f"JobId={job}", f"JobName={name}"]
        subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)


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
        raise UserError(f"{command[0]} failed: {'; '.join(error_messages(error.stderr))}.") from None
    return answer.stdout


def array_limit() -> int:
    """Return the maximum number of jobs in one array of this cluster."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_slurm("scontrol", "show", "config"), re.MULTILINE)
    # The highest index of an array is MaxArraySize - 1.
    return max(1, int(found[1]) - 1) if found else 1000


def error_messages(text: str) -> list[str]:
    """Return the errors in the output of a command of Slurm, without their prefixes; at least one line."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or [line for line in lines if line.startswith("sbatch:")]
    chosen = errors or lines[-1:] or ["no reason given"]
    prefix = r"^(?:\w+: )?(?:error: )?(?:Batch job submission failed: )?"
    return list(dict.fromkeys(re.sub(prefix, "", line).strip().rstrip(".") for line in chosen))
