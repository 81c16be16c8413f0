"""A Slurm cluster for the tests of this folder, and settings of runs that take seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster, missing_programs, running_cluster
from tests.helpers.command import Command, clean_environment
from tests.helpers.command import command as run_command


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
    variables = {name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")}
    # Variables of coverage measurement would go into the jobs, whose end is not waited for.
    return partial(run_command, timeout=300, environment=clean_environment("COV", **variables))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")
