"""The contents of a report: rows with origins, sentences, settings, categories, runs; and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.report.__main__ import main
from analysis.report.build import build_report
from analysis.report.contents import Report, ReportTable
from htc.config.schema import Config
from htc.errors import UserError
from htc.runs.pool import SelectedRun, change_rows
from tests.helpers.evaluated_runs import write_two_rows
from tests.helpers.run_folders import WriteRun

HOSTILE = "<img src=x onerror=window.attacked=1>"


@pytest.fixture
def sweep(runs: Path, write_run: WriteRun, tmp_path: Path) -> Path:
    """A pool with a sweep of three rows: two with two seeds, the second better, and one that has not begun."""
    write_two_rows(runs, write_run, tmp_path, category=HOSTILE)
    missing = SelectedRun("htc-resnet18-shapes-seed0-0badcafe", HOSTILE, overrides=["seed=9"])
    change_rows(runs, "flow", lambda rows: [*rows, missing])
    return runs


def table(report: Report, name: str) -> ReportTable:
    return next(each for each in report.tables if each.name == name)


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluations" / "default" / "results.json").read_text())


def texts(shown: ReportTable) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in shown.rows]


def test_rows_are_those_of_the_table_of_the_sweep(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100)
    rows = texts(table(report, "rows"))
    assert [row[0] for row in rows] == ["plain", "flow | with", HOSTILE]
    assert rows[2][1:] == ["—"] * (len(rows[2]) - 1)
    found = build_report(sweep, "flow", resamples=100, base="flow | with")
    assert texts(table(found, "rows"))[1][9:11] != rows[1][9:11]


def test_a_cell_is_sorted_by_its_number_and_not_by_its_text(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100)
    shown = table(report, "rows")
    keys = [column.key for column in shown.columns]
    values: list[dict[str, Any]] = [
        {key: cell.value for key, cell in zip(keys, row.cells, strict=True)} for row in shown.rows
    ]
    assert isinstance(values[1]["mask_AP"], float) and values[1]["mask_AP"] > values[0]["mask_AP"]
    assert values[0]["delta"] == 0 and values[2]["mask_AP"] is None
    assert values[1]["images"] < values[1]["delta"]


def test_origin_of_a_row_names_its_runs_with_command_and_code(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100)
    shown = table(report, "rows")
    assert [row.origin for row in shown.rows] == [0, 1, None]
    origin = report.origins[1]
    assert origin.label == "flow | with" and [run.seed for run in origin.runs] == [0, 1]
    run = origin.runs[0]
    assert run.facts["command"].startswith("python -m htc.run model.mask_flow=true") and "hunter2" not in str(run.facts)
    assert run.facts["trained by code"] == "0123456" and run.facts["evaluation"] == "default"
    assert run.facts["on images"].startswith("20 images of ")
    recorded = results_of(sweep / run.folder)
    assert run.values["mask_AP"] == pytest.approx(100 * recorded["segm"]["AP"])
    mean = sum(each.values["mask_AP"] for each in origin.runs) / 2
    assert shown.rows[1].cells[3].value == pytest.approx(mean)


def test_settings_that_differ_are_shown_and_others_are_not(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100)
    assert report.settings is not None
    assert texts(report.settings) == [["model.mask_flow", "false", "true"]]


def set_rate(config: Config, rate: float) -> None:
    config.schedule.learning_rate = rate


def test_of_many_rows_the_settings_are_columns(runs: Path, write_run: WriteRun) -> None:
    rows = []
    for index in range(12):
        run = write_run(
            sweep=None, change=lambda config, index=index: setattr(config.schedule, "learning_rate", index + 1.0)
        )  # type: ignore[misc]
        rows.append(SelectedRun(run.name, f"row {index}"))
    change_rows(runs, "rates", lambda _: rows)
    settings = build_report(runs, "rates", resamples=0).settings
    assert settings is not None and [column.key for column in settings.columns] == ["row", "schedule.learning_rate"]
    assert texts(settings)[11] == ["row 11", "12.0"]


def test_categories_have_the_mean_over_seeds(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100)
    shown = table(report, "categories-mask")
    read = [
        json.loads((sweep / run.folder / "evaluations" / "default" / "results.json").read_text())["per_category"][
            "segm"
        ]
        for run in report.origins[0].runs
    ]
    # A category without objects has no AP.
    assert [row.cells[0].text for row in shown.rows] == [HOSTILE, "c2"]
    assert shown.rows[1].cells[1].value == pytest.approx(50 * (read[0]["c2"] + read[1]["c2"]))


@pytest.mark.parametrize("damage", [None, [], {"segm": 3}, {"segm": {"c2": {"AP": 1}}}, {"segm": {"c2": 7}}])
def test_damaged_categories_are_left_out(sweep: Path, damage: Any) -> None:
    for file in sweep.glob("*/evaluations/default/results.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "per_category": damage}))
    names = [each.name for each in build_report(sweep, "flow", resamples=0, pictures=0).tables]
    assert names == ["rows", "runs"]


def test_runs_have_their_own_numbers(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=0)
    shown = table(report, "runs")
    assert [(row.cells[1].text, row.cells[2].value) for row in shown.rows] == [
        ("plain", 0), ("plain", 1), ("flow | with", 0), ("flow | with", 1),
    ]  # fmt: skip


def test_missing_rows_are_named_with_their_command(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=0)
    (remark,) = table(report, "rows").remarks
    assert "is missing: `python -m htc.run seed=9`" in remark
    assert report.summary[0].endswith("; 1 run is not done.")


def test_summary_tells_chance_from_difference(sweep: Path) -> None:
    summary = " ".join(build_report(sweep, "flow", resamples=100).summary)
    assert "'flow | with' has" in summary and "points higher mask AP than 'plain'" in summary
    none = " ".join(build_report(sweep, "flow", resamples=100, metric="bbox.AP").summary)
    assert "could be chance" in none and "higher" not in none


def test_report_by_boundary_ap_has_its_column_and_figures_of_masks(sweep: Path) -> None:
    report = build_report(sweep, "flow", resamples=100, metric="boundary.AP")
    shown = table(report, "rows")
    place = [column.key for column in shown.columns].index("boundary_AP")
    assert [row.cells[place].text for row in shown.rows][1:] == ["100.0 ± 0.0", "—"]
    assert report.figures and not any("boundary" in figure.svg for figure in report.figures)


def test_a_factorial_has_a_table_of_effects(runs: Path, write_run: WriteRun) -> None:
    # Without intervals there are no effects; with them tests/analysis/test_study.py checks the numbers.
    run = write_run(sweep=None)
    change_rows(runs, "one", lambda _: [SelectedRun(run.name, "one")])
    assert [each.name for each in build_report(runs, "one", resamples=0).tables] == ["rows", "runs"]


def test_command_writes_one_file(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "page.html"
    assert main([f"runs={sweep}", f"out={page}", "resamples=100"]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert list(page.parent.iterdir()) == [page]
    assert HOSTILE not in text and "&lt;img src=x" in text
    assert not re.search(r"(src|href)=\"https?:", text), "the page needs no network"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=flwo"], "sweep=flwo is no sweep of"),
        (["sweep=flow", "base=x"], "base=x is not a row"),
        (["sweep=flow", "metric=AP"], "metric=AP is not one of"),
        (["sweep=flow", "eval=paper"], "eval=paper"),
        (["sweep=flow", "resamples=7"], "resamples=7 must be a whole number, 100 or more"),
        (["sweep=flow", "pictures=-1"], "pictures=-1 must be a whole number, 0 or more"),
        (["sweep=flow", "intervals=perhaps"], "intervals=perhaps must be true or false"),
        (["sweep=../flow"], "sweep=../flow is no sweep"),
        (["sweeps=flow"], "sweeps is not a key"),
        (["sweep=flow", "out=/dev/null/x.html"], "out=/dev/null/x.html cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(
    sweep: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [] if any(each.startswith("intervals=") for each in arguments) else ["intervals=false"]
    assert main([f"runs={sweep}", *quick, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and error.count("\n") == 1


def test_sweep_without_finished_runs_and_pool_without_sweeps_are_refused(runs: Path, write_run: WriteRun) -> None:
    with pytest.raises(UserError, match="has 0 sweeps: there is none yet"):
        build_report(runs)
    run = write_run(status="failed", sweep=None)
    change_rows(runs, "bad", lambda _: [SelectedRun(run.name, "bad")])
    with pytest.raises(UserError, match="none of its runs is done"):
        build_report(runs)
    change_rows(runs, "other", lambda _: [SelectedRun(run.name, "bad")])
    with pytest.raises(UserError, match="choose one of bad, other"):
        build_report(runs)
