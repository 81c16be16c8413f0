"""The processes of a distributed run under Slurm: who is who, and where the first one listens."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from htc.launch.submission import Submission
from htc.runs.files import write_json

PATIENCE = 900.0
"""Seconds that a process waits for the first one to come up."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def of_this_job(cls, submission: Submission) -> Ranks:
        """From the environment of a job's step; a run of its own elsewhere."""
        if submission.launcher != "slurm":
            return cls()
        read = {key: int(os.environ.get(f"SLURM_{key}", "0")) for key in ("PROCID", "NTASKS", "LOCALID")}
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        world_size = max(1, read["NTASKS"])
        return cls(read["PROCID"], world_size, read["LOCALID"], max(1, world_size // nodes))

    def environment(self, submission: Submission) -> dict[str, str]:
        """What PyTorch's distributed package reads; empty for a single process.

        The first process chooses a free port and tells the others through the shared file system, as a port that is
        computed from the job's number may be taken.
        """
        if self.world_size == 1:
            return {}
        path = submission.path / f"address-{this_start()}.json"
        if self.is_main:
            address = {"MASTER_ADDR": own_address(), "MASTER_PORT": str(free_port())}
            write_json(path, address)
        else:
            end = time.monotonic() + PATIENCE
            while not path.is_file():
                if time.monotonic() > end:
                    raise TimeoutError(f"{path} did not appear: the first process of the job did not come up")
                time.sleep(0.2)
            address = json.loads(path.read_text(encoding="utf-8"))
        ranks = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
        }
        return {**address, **{key: str(value) for key, value in ranks.items()}}

    def report_failure(self, submission: Submission, cause: str) -> None:
        """Tell the first process that the one on this rank has failed: it may wait for it for ever."""
        path = submission.path / f"failure-{this_start()}-{self.rank}.json"
        with suppress(OSError):
            write_json(path, {"rank": self.rank, "host": socket.gethostname(), "cause": cause})

    def reported_failure(self, submission: Submission) -> str | None:
        """What another process of this start of the job failed of; None where none has."""
        if self.world_size == 1:
            return None
        for path in sorted(submission.path.glob(f"failure-{this_start()}-*.json")):
            with suppress(OSError, ValueError, KeyError):
                failure = json.loads(path.read_text(encoding="utf-8"))
                return f"process {failure['rank']} on {failure['host']}: {failure['cause']}"
        return None


def this_start() -> str:
    """Names this start of this job of Slurm: a job that is queued again keeps its number."""
    return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def own_address() -> str:
    """A name of this node that can be resolved: Slurm's, else the host's own.

    The name, not its address: a host often knows itself by an address that means another host elsewhere.
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
