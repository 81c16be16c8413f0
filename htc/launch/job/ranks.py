"""Processes of a distributed run under Slurm: their ranks, and the address at which the main process listens."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from htc.launch.submission import Submission
from htc.runs.files import write_json

ADDRESS_TIMEOUT = 900.0
"""Seconds that a process waits for the address of the main process."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of this process among the processes of its job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def of_this_job(cls, submission: Submission) -> Ranks:
        """Read the ranks from the environment of a Slurm job; without Slurm, the process is the only one."""
        if submission.launcher != "slurm":
            return cls()
        read = {key: int(os.environ.get(f"SLURM_{key}", "0")) for key in ("PROCID", "NTASKS", "LOCALID")}
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        world_size = max(1, read["NTASKS"])
        return cls(read["PROCID"], world_size, read["LOCALID"], max(1, world_size // nodes))

    def environment(self, submission: Submission, index: int) -> dict[str, str]:
        """Return the environment variables that torch.distributed reads; empty for a single process.

        The main process chooses a free port and writes it to a file on the shared file system, from which the others
        read it: a port computed from the job id could be in use. Raises TimeoutError if the file does not appear.

        Args:
            submission: Submission of the job.
            index: Run of the submission: a job may run several.
        """
        if self.world_size == 1:
            return {}
        path = submission.path / f"address-{start_id()}-{index}.json"
        if self.is_main:
            address = {"MASTER_ADDR": own_address(), "MASTER_PORT": str(free_port())}
            write_json(path, address)
        else:
            end = time.monotonic() + ADDRESS_TIMEOUT
            while not path.is_file():
                if time.monotonic() > end:
                    raise TimeoutError(f"{path} did not appear: the main process of the job did not start")
                time.sleep(0.2)
            address = json.loads(path.read_text(encoding="utf-8"))
        ranks = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
        }
        return {**address, **{key: str(value) for key, value in ranks.items()}}

    def report_failure(self, submission: Submission, index: int, cause: str) -> None:
        """Report to the main process of a run that the process of this rank failed: it could wait for it forever."""
        path = submission.path / f"failure-{start_id()}-{index}-{self.rank}.json"
        with suppress(OSError):
            write_json(path, {"rank": self.rank, "host": socket.gethostname(), "cause": cause})

    def reported_failure(self, submission: Submission, index: int) -> str | None:
        """Return the failure of another process of a run since this start of the job; None if there is none."""
        if self.world_size == 1:
            return None
        for path in sorted(submission.path.glob(f"failure-{start_id()}-{index}-*.json")):
            with suppress(OSError, ValueError, KeyError):
                failure = json.loads(path.read_text(encoding="utf-8"))
                return f"process {failure['rank']} on {failure['host']}: {failure['cause']}"
        return None


def start_id() -> str:
    """Return an id of this start of the Slurm job: a requeued job keeps its job id."""
    return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def own_address() -> str:
    """Return a name of this node that can be resolved: Slurm's, else the host's own.

    The address is not resolved here: a host often resolves its own name to a loopback address, such as 127.0.1.1.
    """
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()):
        if name:
            with suppress(OSError):
                socket.gethostbyname(name)
                return name
    return "127.0.0.1"


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("", 0))
        return int(chosen.getsockname()[1])
