"""Reading of run folders."""

from __future__ import annotations

from pathlib import Path

import yaml

from analysis.runs import read_runs
from analysis.table_rows import average
from tests.helpers.run_folders import WriteRun


def test_run_without_an_added_key_is_in_one_row_with_runs_that_have_its_default(
    runs: Path, write_run: WriteRun
) -> None:
    old, *_ = write_run(seed=0), write_run(seed=1)
    config = yaml.safe_load((old / "config.yaml").read_text())
    assert config["model"].pop("roi_aligned") is True
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    (row,) = average(read_runs(runs)[0])[0]
    assert row.seeds == 2
