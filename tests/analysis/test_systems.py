"""Results of other systems as rows of a sweep's table, of its errors, and of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.error_table import build_errors
from analysis.make_tables import main
from analysis.report.build import build_report
from analysis.runs import read_runs
from analysis.sheet import markdown
from analysis.statistics.resampled import Resampler
from analysis.study import Study, build_study
from analysis.study_render import study_sheet
from analysis.systems import read_systems
from htc.evaluation.result_files import evaluate_result_files
from htc.runs.evaluations import EvaluationFolder
from tests.analysis.statistics.detections import random_results
from tests.helpers.evaluated_runs import write_two_rows
from tests.helpers.run_folders import WriteRun


@pytest.fixture
def truth_file(runs: Path, write_run: WriteRun, tmp_path: Path) -> Path:
    file = write_two_rows(runs, write_run, tmp_path)
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    return file


def system(folder: Path, truth_file: Path, seed: int, name: str = "Other", kinds: tuple[int, ...] = (0, 1)) -> Path:
    """Return the folder of another system's results, as `htc.evaluate predictions=` makes them."""
    folder.mkdir()
    content = json.loads(truth_file.read_text())
    named = [{**image, "file_name": f"{image['id']}.jpg"} for image in content["images"]]
    evaluated = folder / "truth.json"
    evaluated.write_text(json.dumps({**content, "images": named}))
    files = []
    for kind in kinds:
        files.append(folder / f"results{kind}.json")
        files[-1].write_text(json.dumps(random_results(content, seed)[kind]))
    results = evaluate_result_files(files, evaluated, EvaluationFolder(folder), name)
    # The runs were evaluated with the file without names, which are of no use to the metrics.
    digest = json.loads(next(truth_file.parent.glob("runs/*/evaluations/default/results.json")).read_text())["data"]
    EvaluationFolder(folder).write({**results, "data": digest, "annotation_file": str(truth_file)})
    return folder


def study_with(runs: Path, *folders: Path, **options: str) -> Study:
    return build_study(
        read_runs(runs)[0], runs, "flow", resampler=Resampler(100), systems=read_systems(folders), **options
    )


def test_another_system_is_a_row_with_intervals(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    folder = system(tmp_path / "other", truth_file, 7)
    study = study_with(runs, folder)
    row = study.rows[-1]
    recorded = json.loads((folder / "results.json").read_text())
    assert row.label == "Other" and row.stats["mask_AP"].mean == pytest.approx(100 * recorded["segm"]["AP"])
    assert row.comparison is not None and row.comparison.difference == pytest.approx(
        row.stats["mask_AP"].mean - study.rows[0].stats["mask_AP"].mean
    )
    assert row.comparison.on_images.low < row.comparison.difference < row.comparison.on_images.high
    assert "| Other " in markdown(study_sheet(study))
    assert build_errors(study, runs, "default", Resampler(100)).rows[2].label == "Other"


def test_another_system_can_be_the_base(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    study = study_with(runs, system(tmp_path / "other", truth_file, 7), base="Other")
    assert study.base == "Other" and study.rows[0].comparison is not None


def test_folders_of_one_name_are_seeds(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    folders = [system(tmp_path / str(seed), truth_file, seed) for seed in (7, 8)]
    row = study_with(runs, *folders).rows[-1]
    assert [run.seed for run in row.runs] == [0, 1] and row.stats["mask_AP"].std is not None


def test_a_system_with_boxes_alone_is_not_compared_by_masks(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    folder = system(tmp_path / "boxes", truth_file, 7, kinds=(0,))
    row = study_with(runs, folder).rows[-1]
    assert "mask_AP" not in row.stats and row.comparison is None and row.delta is None
    assert study_with(runs, folder, metric="bbox.AP").rows[-1].comparison is not None
    errors = build_errors(study_with(runs, folder), runs, "default", Resampler(100))
    assert [each.kind for each in errors.rows if each.label == "Other"] == ["bbox"]


def test_a_system_on_other_images_is_not_shown(runs: Path, truth_file: Path, tmp_path: Path) -> None:
    folder = system(tmp_path / "other", truth_file, 7)
    results = json.loads((folder / "results.json").read_text())
    EvaluationFolder(folder).write({**results, "data": {"annotations": "0" * 64}})
    study = study_with(runs, folder)
    assert [row.label for row in study.rows] == ["plain", "flow | with"]
    assert "'Other' is not shown: it was evaluated on other images than the rows." in study.remarks


def test_command_and_report(runs: Path, truth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = system(tmp_path / "other", truth_file, 7)
    given = [f"runs={runs}", f"out={tmp_path / 'out'}", "tables=study", "intervals=false"]
    assert main([*given, f"systems={folder}"]) == 0 and "| Other " in capsys.readouterr().out
    report = build_report(runs, "flow", resamples=0, pictures=0, systems=[folder])
    assert report.origins[-1].label == "Other"
    assert "results0.json" in report.origins[-1].runs[0].facts["predictions"]
    assert report.settings is not None and [column.header for column in report.settings.columns][-1] == "flow | with"


def test_folders_without_such_results_are_refused(
    runs: Path, truth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"runs={runs}", f"out={tmp_path / 'out'}", "tables=study", "intervals=false"]
    assert main([*given, f"systems={tmp_path / 'nothing'}"]) == 2
    assert "results.json: No such file" in capsys.readouterr().err
    own = next(runs.glob("*/evaluations/default"))
    assert main([*given, f"systems={own}"]) == 2
    assert "has no results of another system: python -m htc.evaluate predictions=FILE" in capsys.readouterr().err
