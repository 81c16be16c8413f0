"""Fixtures of the tests of the tables: an empty folder of runs, and a function that writes run folders into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.run_folders import WriteRun, run_writer


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder of runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write_run(runs: Path) -> WriteRun:
    """A function that writes run folders below `runs`."""
    return run_writer(runs)
