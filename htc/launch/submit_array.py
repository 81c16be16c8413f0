"""Submission of job arrays to Slurm by submitit, and what Slurm says where it refuses them."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from htc.errors import UserError
from htc.launch.sbatch import submitit_parameters
from htc.launch.slurm import error_messages, is_installed, run_slurm

MAX_TIMEOUTS = 10**6
"""Number of time limits after which submitit no longer requeues a job: never, as the supervisor decides by progress."""
DISTRIBUTED_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SBATCH_VARIABLES = {
    "SBATCH_JOB_NAME": "job_name", "SBATCH_COMMENT": "comment", "SBATCH_TIMELIMIT": "time", "SBATCH_NODES": "nodes",
    "SBATCH_NTASKS_PER_NODE": "ntasks_per_node", "SBATCH_CPUS_PER_TASK": "cpus_per_task",
    "SBATCH_GPUS_PER_NODE": "gpus_per_node", "SBATCH_GPUS": "gpus_per_node", "SBATCH_GRES": "gpus_per_node",
    "SBATCH_GPUS_PER_TASK": "gpus_per_node", "SBATCH_PARTITION": "partition", "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos", "SBATCH_CONSTRAINT": "constraint",
}  # fmt: skip
"""Variables that sbatch reads and that would replace a parameter of submitit, if that one is set."""
ALWAYS_REPLACED = ("SBATCH_ARRAY_INX", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_OPEN_MODE", "SBATCH_SIGNAL")
"""Variables that would replace what the launcher always sets."""
HINTS = {
    "account": ("account",),
    "qos": ("qos",),
    "time": ("time limit", "timelimit"),
    "constraint": ("feature",),
    "mem": ("memory",),
}
"""Words of Slurm's messages by the launcher's keys that they concern."""


def submit_array(
    jobs: Sequence[Callable[[], object]],
    folder: Path,
    options: Mapping[str, Any],
    *,
    name: str,
    comment: str,
    setup: Sequence[str],
    teardown: Sequence[str],
) -> list[str]:
    """Submit jobs as one array and return their ids.

    Args:
        jobs: Picklable functions that the jobs call.
        folder: Folder of submitit's files and of the jobs' output.
        options: The launcher's options as `with_sbatch_options` returns them.
        name: Name of the jobs.
        comment: Comment of the jobs, by which they are found.
        setup: Shell lines that each job runs first.
        teardown: Shell lines that each job runs last.

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

    parameters = submitit_parameters(options, name, comment, setup, teardown)
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=MAX_TIMEOUTS, python=options.get("python"))
    errors = io.StringIO()
    try:
        executor.update_parameters(**parameters)
        # submitit prints the errors of sbatch to standard error.
        with (
            without_variables(parameters),
            redirect_stderr(errors),
            executor.batch(),
            warnings.catch_warnings(),
        ):
            # submitit warns that a batch of one job is not an array.
            warnings.simplefilter("ignore")
            submitted = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(refusal(errors.getvalue() or str(error), options)) from None
    return [job.job_id for job in submitted]


@contextmanager
def without_variables(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Hide the environment variables that would change jobs while the context is open.

    These are the variables of sbatch for what the parameters set, and those of a surrounding job: a job that is
    submitted from within a job inherits them.

    Args:
        parameters: Parameters of submitit.
    """
    hidden = {*ALWAYS_REPLACED, *DISTRIBUTED_VARIABLES}
    hidden |= {variable for variable, name in SBATCH_VARIABLES.items() if parameters.get(name) is not None}
    if "SLURM_JOB_ID" in os.environ:
        hidden |= {name for name in os.environ if name.startswith(("SLURM_", "SRUN_"))} - {"SLURM_CONF"}
    removed = {name: os.environ.pop(name) for name in hidden if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)


def refusal(message: str, options: Mapping[str, Any]) -> str:
    """Return the error message of sbatch, all of its lines, as one sentence that names the key of the launcher.

    Args:
        message: What sbatch printed to standard error.
        options: The launcher's options as `with_sbatch_options` returns them.
    """
    words = "; ".join(error_messages(message))
    lower = words.lower()
    if re.search(r"submit limit|maxsubmit|job count limit|too many jobs", lower):
        return f"Slurm takes no more jobs now: '{words}'. Set launcher.submit_limit to the number that it takes."
    if "partition" in lower:
        partitions = ", ".join(sorted(set(run_slurm("sinfo", "--noheader", "--format=%R").split())))
        return f"launcher.partition={options['partition']}: Slurm says '{words}'; its partitions are {partitions}."
    for key, hints in HINTS.items():
        if any(hint in lower for hint in hints):
            return f"launcher.{key}={options[key]}: Slurm says '{words}'."
    if any(hint in lower for hint in ("node configuration", "node count", "gres", "processors", "nodes")):
        asked = ", ".join(
            f"launcher.{key}={options[key]}" for key in ("nodes", "gpus_per_node", "cpus_per_task", "mem", "partition")
        )
        return f"no nodes of this cluster can give {asked} (Slurm says '{words}'); `sinfo -o '%n %G %c %m'` shows them."
    return f"Slurm refused the jobs: '{words}'."
