"""A folder of runs for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.run_folders import WriteRun, run_writer


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of runs, empty."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write_run(runs: Path) -> WriteRun:
    """Writes run folders below `runs`."""
    return run_writer(runs)
