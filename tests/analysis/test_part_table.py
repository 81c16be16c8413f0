"""Tables by category and by size: the numbers of the evaluations, differences with intervals, what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from analysis.make_tables import main
from analysis.part_render import parts_sheet, write_parts
from analysis.part_table import CATEGORIES, SIZES, PartTable, build_parts
from analysis.runs import read_runs
from analysis.sheet import FORMATS
from analysis.statistics.intervals import image_weights
from analysis.statistics.matching import match_file
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import read_truth
from analysis.statistics.weighted_ap import weighted_ap
from analysis.study import build_study
from htc.runs.evaluations import evaluation_folder
from tests.helpers.evaluated_runs import write_two_rows
from tests.helpers.run_folders import WriteRun

METRICS = {"small": "APs", "medium": "APm", "large": "APl"}


@pytest.fixture
def truth_file(runs: Path, write_run: WriteRun, tmp_path: Path) -> Path:
    return write_two_rows(runs, write_run, tmp_path)


def table_of(runs: Path, by: str, metric: str = "segm.AP", resamples: int = 100) -> PartTable:
    resampler = Resampler(resamples) if resamples else None
    study = build_study(read_runs(runs)[0], runs, "flow", metric=metric, resampler=resampler)
    return build_parts(study, by, runs, "default", resampler)


@pytest.mark.parametrize("resamples", [0, 100])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("by", [CATEGORIES, SIZES])
def test_numbers_are_the_means_of_the_evaluations(
    runs: Path, truth_file: Path, by: str, kind: str, resamples: int
) -> None:
    table = table_of(runs, by, f"{kind}.AP", resamples)
    found = [json.loads(file.read_text()) for file in sorted(runs.glob("*no_mask_flow*/evaluations/*/results.json"))]
    shown = [part for part in table.parts if part.row == "plain"]
    # The third category has no objects.
    assert [part.name for part in shown] == (["c1", "c2"] if by == CATEGORIES else list(METRICS))
    for part in shown:
        values = [
            100 * (each["per_category"][kind][part.name] if by == CATEGORIES else each[kind][METRICS[part.name]])
            for each in found
        ]
        assert part.stat.n == 2 and part.stat.mean == pytest.approx(np.mean(values))
        assert part.delta is None and part.mark == ""
    assert all((part.comparison is not None) == bool(resamples) for part in table.parts if part.row != "plain")


def test_numbers_do_not_depend_on_whether_there_are_intervals(runs: Path, truth_file: Path) -> None:
    for by in (CATEGORIES, SIZES):
        with_intervals, without = table_of(runs, by), table_of(runs, by, resamples=0)
        for one, other in zip(with_intervals.parts, without.parts, strict=True):
            assert (one.name, one.row) == (other.name, other.row)
            assert one.stat.mean == pytest.approx(other.stat.mean)
            assert one.delta == (None if other.delta is None else pytest.approx(other.delta))


def test_intervals_are_those_of_the_category_on_common_resamples(runs: Path, truth_file: Path) -> None:
    truth = read_truth(truth_file)
    weights = np.concatenate(list(image_weights(20, 100)))
    files = list(runs.glob("*/evaluations/default/segm.json"))
    rows = []
    for on in (False, True):
        of_row = [file for file in files if ("no_mask_flow" not in str(file)) == on]
        found = [weighted_ap(match_file(file, truth, "segm"), weights).per_category("AP", [1]) for file in of_row]
        rows.append(np.mean(found, axis=0))
    difference = 100 * (rows[1] - rows[0])
    (part,) = (part for part in table_of(runs, CATEGORIES).parts if (part.name, part.row) == ("c2", "flow | with"))
    assert part.comparison is not None and part.comparison.anew is not None
    low, high = np.nanquantile(difference, [0.025, 0.975])
    assert (part.comparison.on_images.low, part.comparison.on_images.high) == pytest.approx((low, high))
    assert part.objects == sum(
        not each["iscrowd"] for (category, _), found in truth.annotations.items() if category == 1 for each in found
    )
    assert part.p_value is not None and part.p_value >= part.comparison.anew.p_value
    assert part.mark == "*"


def test_with_one_seed_the_mark_says_that_it_holds_for_these_checkpoints(
    runs: Path, write_run: WriteRun, tmp_path: Path
) -> None:
    write_two_rows(runs, write_run, tmp_path, seeds=1)
    assert [part.mark for part in table_of(runs, CATEGORIES).parts] == ["", "°", "", "°"]


def test_parts_of_boundary_ap(runs: Path, truth_file: Path) -> None:
    for by in (CATEGORIES, SIZES):
        of_masks = table_of(runs, by)
        for resamples in (0, 100):
            table = table_of(runs, by, "boundary.AP", resamples)
            assert [(part.name, part.row) for part in table.parts] == [(part.name, part.row) for part in of_masks.parts]
            for part, other in zip(table.parts, of_masks.parts, strict=True):
                assert part.stat.mean < other.stat.mean or part.stat.mean == 100


def test_rows_without_predictions_or_categories_are_named(runs: Path, truth_file: Path) -> None:
    for file in runs.glob("*no_mask_flow*/evaluations/default/segm.json"):
        file.unlink()
    table = table_of(runs, CATEGORIES)
    assert {part.row for part in table.parts} == {"flow | with"}
    assert all(part.delta is None for part in table.parts)
    assert any(remark.startswith("'plain' is not shown:") and "segm.json" in remark for remark in table.remarks)
    assert {part.row for part in table_of(runs, CATEGORIES, resamples=0).parts} == {"plain", "flow | with"}
    for run in runs.glob("*no_mask_flow*"):
        place = evaluation_folder(run, "default")
        place.write({**place.read(), "per_category": None})
    without = table_of(runs, CATEGORIES, resamples=0)
    assert without.remarks == ["'plain' is not shown: its results do not have the AP by category."]


def test_files_of_every_format(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = write_parts(table_of(runs, CATEGORIES), out) + write_parts(table_of(runs, SIZES), out)
    assert {path.name for path in out.iterdir()} == {
        f"{by}_flow.{ending}" for by in (CATEGORIES, SIZES) for ending in FORMATS
    }
    assert "## Mask AP by category in the sweep flow" in text and "## Mask AP by size in the sweep flow" in text
    lines = list(csv.DictReader((out / "categories_flow.csv").open()))
    assert len(lines) == 4 and lines[1]["row"] == "flow | with"
    assert float(lines[1]["images_low"]) <= float(lines[1]["delta"]) <= float(lines[1]["images_high"])
    columns = parts_sheet(table_of(runs, SIZES, resamples=0)).columns
    assert [column.header for column in columns] == ["size", "row", "AP", "Δ"]


def test_command_makes_the_tables_where_they_are_named(
    runs: Path, truth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"runs={runs}", f"out={tmp_path / 'out'}", "intervals=false"]
    assert main([*given, "tables=categories,sizes"]) == 0
    shown = capsys.readouterr().out
    assert "Mask AP by category" in shown and "Mask AP by size" in shown and "## Sweep flow" not in shown
    assert main(given) == 0 and "by category" not in capsys.readouterr().out
    assert main([*given, "tables=category"]) == 2
    assert "study, search, errors, categories, sizes" in capsys.readouterr().err
