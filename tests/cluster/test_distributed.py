"""One distributed run on two nodes of a real Slurm cluster."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster.observe import assert_twins, checkpoint_steps, metrics, record, wait_until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.helpers.command import Command
from tests.helpers.command import command as command_here
from tests.helpers.tiny_run import tiny_launched

pytestmark = pytest.mark.slurm
# All images have the same size after padding. Otherwise one process would pad its batch of two to the larger image,
# which changes group norm, and two processes with one image each would not. SGD, because AdamW's first steps amplify
# rounding differences. A low learning rate, because at ten times this rate they change some proposals after ten steps.
ITERATIONS = 16
SAME_PADDING = [
    "data.long_side=64", "schedule.optimizer=sgd", "schedule.learning_rate=0.002", "schedule.warmup_iterations=0",
]  # fmt: skip
TWO_NODES = ["hydra/launcher=slurm", "launcher.gpus_per_node=1", "launcher.nodes=2", "launcher.cpus_per_task=2"]


def only_run(runs: Path) -> Path:
    (folder,) = [path for path in runs.iterdir() if not path.name.startswith(".")]
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / f"step_{checkpoint_steps(folder)[-1]:08d}.pt"
    model: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["model"]
    return model


def run_here(program: list[str], data: Path, runs: Path) -> Path:
    """Start a run on this machine, without Slurm, and return its folder."""
    result = command_here(*program, *tiny_launched(runs, data, iterations=ITERATIONS), *SAME_PADDING)
    assert result.returncode == 0, result.stderr
    return only_run(runs)


@pytest.fixture(scope="module")
def by_torchrun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same run, trained by two processes that torchrun starts."""
    program = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "htc.run"]
    return run_here(program, data, tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="module")
def by_one_process(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same run, trained by a single process."""
    return run_here(["htc.run"], data, tmp_path_factory.mktemp("single"))


def started_on_two_nodes(command: Command, cluster: SlurmCluster, data: Path, runs: Path) -> tuple[Path, int]:
    """Launch a run on two nodes, wait for a checkpoint, and return the run's folder and the id of its main process."""
    cluster.wait_for_idle_nodes()
    launched = command("htc.run", "-m", *tiny_launched(runs, data, iterations=ITERATIONS), *SAME_PADDING, *TWO_NODES)
    assert launched.returncode == 0, launched.stderr
    folder = only_run(runs)
    wait_until(lambda: checkpoint_steps(folder), "a checkpoint")
    return folder, int((folder / ".lock").read_text().split()[1])


@pytest.mark.slow
def test_two_nodes_train_one_run_through_a_kill_and_equal_torchrun_and_a_single_process(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path, by_torchrun: Path, by_one_process: Path
) -> None:
    folder, first = started_on_two_nodes(command, cluster, data, tmp_path)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: record(folder).get("status") == "done", "the run done")
    assert len(record(folder)["resumes"]) == 1
    status = json.loads(command("htc.status", "unnamed", f"runs={tmp_path}", "--json").stdout)
    assert [row["state"] for row in status] == ["done"]
    assert_twins(folder, by_torchrun)
    # Two processes sum the losses and gradients in another order, so the rounding differs.
    assert_close(metrics(folder), metrics(by_one_process))
    ours, alone = weights(folder), weights(by_one_process)
    assert all(torch.allclose(ours[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)


@pytest.mark.slow
def test_a_killed_process_is_recorded_as_the_cause_and_the_run_resumes_although_its_main_process_hangs(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    folder, first = started_on_two_nodes(command, cluster, data, tmp_path)
    # The stopped process stands for one that hangs in a collective operation.
    os.kill(first, signal.SIGSTOP)
    (second,) = [process for process in processes_of(folder) if process != first]
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: record(folder).get("status") == "done", "the run done")
    (failure,) = record(folder)["launch"]["failures"]
    assert failure["cause"].startswith("process 1 on ")
    assert failure["cause"].endswith("killed by SIGKILL")


def processes_of(folder: Path) -> list[int]:
    """Return the ids of the processes that train a launched run, found by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"htc.launch.job.worker" in words and any(os.fsencode(folder.parent) in word for word in words):
                found.append(int(path.parent.name))
    return found


def assert_close(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Assert that the training lines have the same losses up to rounding."""
    ours, theirs = ([line for line in both if line["kind"] == "train"] for both in (lines, others))
    assert len(ours) == len(theirs) > 0
    for line, other in zip(ours, theirs, strict=True):
        assert line["step"] == other["step"]
        assert line["losses"] == pytest.approx(other["losses"], rel=1e-4, abs=1e-5)
