"""A Slurm cluster of three nodes with two fake GPUs each on this host: real daemons in a temporary folder.

One node has GPUs of the type `a100`, the others `v100`. An array has at most 400 jobs. `job_submit.lua` holds rules as
clusters have them.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NODES = {"n1": "a100", "n2": "v100", "n3": "v100"}
"""The nodes, and the type of their GPUs."""
CPUS_PER_NODE = 4
REQUEUE_SECONDS = 8
"""Lifetime of a credential, during which Slurm holds back a requeued job; two minutes by default."""

CONFIGURATION = """\
ClusterName=htc
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_seconds}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,default_queue_depth=1000
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
EnforcePartLimits=ALL
SlurmdTimeout=4
SlurmctldTimeout=10
KillWait=15
MinJobAge=300
MaxArraySize=401
JobSubmitPlugins=lua
InactiveLimit=0
Waittime=0
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=1-0 State=UP PriorityTier=2 PreemptMode=OFF
PartitionName=few Nodes=ALL MaxTime=1-0 State=UP PriorityTier=1 GraceTime=30
PartitionName=closed Nodes=ALL MaxTime=1-0 State=DOWN
"""

RULES = """\
function slurm_job_submit(job, partitions, user)
    if job.account == "unpaid" then
        slurm.log_user("Account unpaid has no hours left.\\nAsk help@cluster for more.")
        return slurm.ERROR
    end
    local last = string.match(job.array_inx or "", "-(%d+)")
    if job.partition == "few" and last ~= nil and tonumber(last) > 1 then
        slurm.log_user("QOSMaxSubmitJobPerUserLimit: the partition few takes two jobs of an array (job submit limit)")
        return slurm.ERROR
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, user)
    return slurm.SUCCESS
end

return slurm.SUCCESS
"""
"""The cluster's own rules: the account `unpaid` is refused, and the partition `few` takes small arrays."""


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that are not installed; `Linux` on another operating system."""
    search = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    names = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
    missing = [name for name in names if shutil.which(name, path=search) is None]
    return missing if sys.platform == "linux" else ["Linux"]


class SlurmCluster:
    """Slurm's daemons and commands.

    The partitions are `main`, `urgent` (preempts `main`), `few` (takes small arrays) and `closed` (down).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"

    def start(self) -> None:
        """Write the configuration, start the daemons, and wait until all nodes are idle."""
        self._write_configuration()
        self._start_munge()
        self._daemon("slurmctld", "-i")
        for node in NODES:
            self.start_node(node)
        self.wait_for_idle_nodes()

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._daemon("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd with SIGKILL: the processes of its jobs continue, but the controller cannot reach it."""
        os.kill(self._pid(f"slurmd.{node}"), signal.SIGKILL)

    def run(self, *command: str) -> str:
        """Run a command of Slurm and return its output. Raises RuntimeError if it fails."""
        answer = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        if answer.returncode:
            raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
        return answer.stdout

    @contextlib.contextmanager
    def without_user_signal(self) -> Iterator[None]:
        """Make Slurm send SIGTERM at a preemption, as it does by default, while the context is open."""
        file = self.folder / "slurm.conf"
        text = file.read_text()
        file.write_text(text.replace("SlurmctldParameters=preempt_send_user_signal\n", ""))
        self.run("scontrol", "reconfigure")
        try:
            yield
        finally:
            file.write_text(text)
            self.run("scontrol", "reconfigure")

    def node_states(self) -> dict[str, str]:
        """Return the state of each node, such as `idle`."""
        lines = self.run("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_idle_nodes(self, seconds: float = 300) -> None:
        """Wait until all nodes are idle. Raises RuntimeError if they are not after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                if self.node_states() == dict.fromkeys(NODES, "idle"):
                    return
            time.sleep(0.3)
        raise RuntimeError(f"the nodes did not become idle: {self.node_states()}, see {self.folder}")

    def cancel_all(self) -> None:
        """End all jobs, and wait until they are gone."""
        self.run("scancel", "--full", f"--user={getpass.getuser()}")
        end = time.monotonic() + 60
        while self.run("squeue", "--noheader").strip() and time.monotonic() < end:
            time.sleep(0.3)

    def stop(self) -> None:
        """End the remaining jobs, and each daemon by the process id that it wrote to its file."""
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
            self.cancel_all()
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                _end(self._pid(name))

    def _write_configuration(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        host = socket.gethostname().split(".")[0]
        controller_port, *node_ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            f"RealMemory=4000 Gres=gpu:{kind}:2 State=UNKNOWN"
            for (node, kind), port in zip(NODES.items(), node_ports, strict=True)
        )
        text = CONFIGURATION.format(
            host=host, user=getpass.getuser(), folder=self.folder, nodes=nodes, controller_port=controller_port,
            requeue_seconds=REQUEUE_SECONDS,
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        gpus = []
        for node, kind in NODES.items():
            for index in range(2):
                device = self.folder / f"{node}.gpu{index}"
                # A device file like /dev/null, which only root may create; for other users, a link to /dev/null.
                if os.geteuid() == 0:
                    subprocess.run(["mknod", str(device), "c", "1", "3"], check=True)
                else:
                    device.symlink_to("/dev/null")
            gpus.append(f"NodeName={node} Name=gpu Type={kind} File={self.folder}/{node}.gpu[0-1]")
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")
        (self.folder / "job_submit.lua").write_text(RULES)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {name: self.folder / f"munge.{name}" for name in ("socket", "log", "seed")}
        # --force, because a parent of the folder may be writable for everyone, such as /tmp.
        subprocess.run(
            ["munged", "--force", f"--key-file={key}", f"--socket={files['socket']}", f"--log-file={files['log']}",
             f"--seed-file={files['seed']}", f"--pid-file={self.folder / 'munged.pid'}", "--num-threads=2"],
            env=self.environment, check=True, timeout=30, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _daemon(self, *command: str) -> None:
        subprocess.run(
            command, env=self.environment, check=True, timeout=30, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())


def free_ports(number: int) -> list[int]:
    """Return different ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _end(pid: int) -> None:
    """End a process with SIGTERM, or with SIGKILL if it does not end within ten seconds."""
    os.kill(pid, signal.SIGTERM)
    for _ in range(100):
        time.sleep(0.1)
        os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Run a cluster in a folder while the context is open."""
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
