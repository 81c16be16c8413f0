"""A switch of the model that the paper does not have, as a column of the components table."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.helpers.command import run_code
from tests.helpers.run_folders import ON, WriteRun

PROGRAM = """
import sys
from analysis.table_rows import ADDED_SWITCHES
ADDED_SWITCHES["low_quality_matches"] = "best matches"
from analysis.make_tables import main
sys.exit(main(sys.argv[1:]))
"""


def test_added_switch_is_a_column_that_published_rows_do_not_have(
    runs: Path, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run(mask_ap=0.30, **ON)
    write_run(mask_ap=0.32, low_quality_matches=True, **ON)
    done = run_code(PROGRAM, f"runs={runs}", f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "components.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [(row["origin"], row["method"], row["low_quality_matches"], row["is_base"]) for row in rows]
    assert shown == [("own", "HTC", "0", "1"), ("own", "HTC", "1", "0"), ("published", "HTC", "0", "0")]
    assert "| best matches |" in (tmp_path / "components.md").read_text("utf-8")
    comparison = (tmp_path / "comparison.md").read_text("utf-8")
    assert "| HTC with best matches |" in comparison and "| HTC w/o" not in comparison
