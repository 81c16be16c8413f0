"""A Slurm cluster for the tests of this folder, and settings of runs that take seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster, missing_programs, running_cluster

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        absent = f"no Slurm here ({', '.join(missing)} missing)"
        if os.environ.get("HTC_REQUIRE_SLURM"):
            pytest.fail(absent)
        pytest.skip(absent)
    with running_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="session")
def command(cluster: SlurmCluster) -> Command:
    """A function that runs `python -m MODULE ARGUMENTS` from the project's root, as on the cluster's login node."""
    clean = {key: value for key, value in cluster.environment.items() if not key.startswith(("WANDB_", "COV"))}

    def run(module: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd, env={**clean, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def tiny(data: Path, runs: Path, iterations: int = 32) -> list[str]:
    """Overrides of a run that takes some seconds on a CPU, with a checkpoint every fourth step."""
    return [
        f"runs={runs}", f"data.root={data}", "data.workers=0", "data.shapes.image_size=64",
        "data.shapes.train_images=16", "data.shapes.val_images=4", "data.short_side=64", "data.long_side=80",
        "backbone.width=8", "model.channels=16", "model.fc_channels=32", f"schedule.iterations={iterations}",
        "schedule.batch_size=2", "log_every=4", "save.every=4", "device=cpu", "wandb.mode=disabled",
    ]  # fmt: skip


SLURM = ["hydra/launcher=slurm", "launcher.gpus_per_node=1", "launcher.cpus_per_task=4", "launcher.time=10"]
"""Options that give each run a node of its own, so that a failing node affects one run."""


def environment_without_slurm() -> dict[str, str]:
    """Return the environment variables without those of a Slurm job."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
