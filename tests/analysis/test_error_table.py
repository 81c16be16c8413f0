"""Tables of errors: costs over seeds, differences to the base row, categories, formats."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.error_render import errors_sheet, write_errors
from analysis.error_table import ErrorTable, build_errors
from analysis.make_tables import main
from analysis.runs import read_runs
from analysis.sheet import SheetBlock, latex
from analysis.statistics.errors import error_ap, find_errors
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import read_truth
from analysis.study import build_study
from tests.helpers.evaluated_runs import write_two_rows
from tests.helpers.run_folders import WriteRun


@pytest.fixture
def truth_file(runs: Path, write_run: WriteRun, tmp_path: Path) -> Path:
    return write_two_rows(runs, write_run, tmp_path)


def errors_of(runs: Path) -> ErrorTable:
    study = build_study(read_runs(runs)[0], runs, "flow")
    return build_errors(study, runs, "default", Resampler(100))


def test_costs_are_the_means_over_the_seeds(runs: Path, truth_file: Path) -> None:
    table = errors_of(runs)
    assert [(row.kind, row.label) for row in table.rows] == [
        ("segm", "plain"), ("segm", "flow | with"), ("bbox", "plain"), ("bbox", "flow | with"),
    ]  # fmt: skip
    truth = read_truth(truth_file)
    costs = []
    for file in sorted(runs.glob("*no_mask_flow*/evaluations/default/segm.json")):
        found = error_ap(find_errors(json.loads(file.read_text()), truth, "segm"), np.ones((1, 20)))
        costs.append(100 * found.cost("localization")[0])
    stat = table.rows[0].costs["localization"].stat
    assert len(costs) == 2 and (stat.mean, stat.std) == pytest.approx((np.mean(costs), np.std(costs, ddof=1)))
    # Detections in crowds are no errors, and all others are perfect.
    perfect = table.rows[1]
    assert perfect.costs["localization"].stat.mean == perfect.costs["missed"].stat.mean == 0


def test_differences_have_both_intervals_and_are_marked(runs: Path, truth_file: Path) -> None:
    table = errors_of(runs)
    plain, flow = table.rows[:2]
    assert all(cost.comparison is None and cost.mark == "" for cost in plain.costs.values())
    cost = flow.costs["localization"]
    assert cost.comparison is not None and cost.comparison.anew is not None
    assert cost.comparison.difference == pytest.approx(-plain.costs["localization"].stat.mean)
    assert cost.comparison.on_images.high < 0
    # Adjusted for 16 differences: at least as large as its own.
    assert cost.p_value is not None and cost.p_value >= cost.comparison.anew.p_value
    sheet = errors_sheet(table)
    assert any(remark.startswith("'flow | with', masks, localization: −") for remark in sheet.remarks) == (
        cost.mark == "*"
    )


def test_with_one_seed_the_mark_says_that_it_holds_for_these_checkpoints(
    runs: Path, write_run: WriteRun, tmp_path: Path
) -> None:
    write_two_rows(runs, write_run, tmp_path, seeds=1)
    table = errors_of(runs)
    cost = table.rows[1].costs["localization"]
    assert cost.p_value is None and cost.mark == "°"
    assert "°" in errors_sheet(table).blocks[0].rows[1][4]


def test_errors_are_kept_next_to_the_predictions(runs: Path, truth_file: Path) -> None:
    first = errors_of(runs)
    kept = list(runs.glob("*/evaluations/default/errors-segm-100-0.npz"))
    assert len(kept) == 4
    truth_file.unlink()
    assert repr(errors_of(runs)) == repr(first), "the annotations are not read again"
    for file in kept:
        file.write_bytes(b"damaged")
    assert "has no errors of masks" in errors_of(runs).remarks[0]


def test_changed_predictions_are_read_anew(runs: Path, truth_file: Path) -> None:
    first = errors_of(runs)
    for file in runs.glob("*no_mask_flow*/evaluations/default/segm.json"):
        file.write_text(json.dumps(json.loads(file.read_text())[::2]))
    second = errors_of(runs)
    assert second.rows[0].ap.mean < first.rows[0].ap.mean and second.rows[1].ap == first.rows[1].ap


def test_files_of_every_format(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    text = write_errors(errors_of(runs), tmp_path / "out", by_category=True)
    names = {f"errors{part}_flow.{ending}" for part in ("", "_by_category") for ending in ("md", "tex", "csv", "html")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert "## Errors in the sweep flow" in text and "## Errors by category in the sweep flow" in text
    lines = list(csv.DictReader((tmp_path / "out" / "errors_flow.csv").open()))
    assert len(lines) == 4 * 8
    line = next(each for each in lines if each["row"] == "flow | with" and each["error"] == "localization")
    assert float(line["anew_low"]) < float(line["delta"]) < float(line["anew_high"]) and float(line["number"]) >= 0
    of_category = list(csv.DictReader((tmp_path / "out" / "errors_by_category_flow.csv").open()))
    assert {each["category"] for each in of_category} <= {"c1", "c2", "c3"} and len(of_category) > 20
    assert r"flow \| with" in text


def test_latex_keeps_stars_and_brackets_at_the_start_of_lines_and_marks(runs: Path, truth_file: Path) -> None:
    sheet = errors_sheet(errors_of(runs))
    rows = [SheetBlock([["[a]", "b | c", "1.0°"]])]
    text = latex(
        replace(sheet, columns=sheet.columns[:3], blocks=rows, notes=["First.", "* marks a difference; ° another."])
    )
    assert "\\\\\n{}* marks a difference; $^\\circ$ another." in text
    assert "{}[a] & b \\textbar{} c & 1.0$^\\circ$ \\\\" in text


def test_command_makes_the_table_when_it_is_asked_for(
    runs: Path, truth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"runs={runs}", f"out={tmp_path / 'out'}", "resamples=100"]
    assert main(given) == 0 and "Errors in the sweep" not in capsys.readouterr().out
    assert main([*given, "tables=errors", "by=category"]) == 0
    shown = capsys.readouterr().out
    assert "Errors by category" in shown and "## Sweep flow" not in shown
    assert main([*given, "by=size"]) == 2 and "by=size must be category" in capsys.readouterr().err
