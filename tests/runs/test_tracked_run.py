"""A run from training to its second evaluation, tracked offline: wandb's file alone has everything about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis.dashboard_panels import sections
from analysis.make_tables import main
from analysis.wandb_log import read_run_log
from htc.runs.wandb_files import offline_files
from tests.helpers.command import clean_environment, command
from tests.helpers.tiny_run import tiny
from tests.helpers.wandb_history import read_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and evaluated, and evaluated again with other settings."""
    place = tmp_path_factory.mktemp("tracked")
    environment = clean_environment(HOME=str(place))
    overrides = tiny(place / "runs", overrides=["wandb.mode=offline", "device=cpu", "schedule.eval_every=3"])
    done = command("htc.run", *overrides, environment=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
    done = command("htc.evaluate", f"run={folder}", "eval=paper", environment=environment)
    assert done.returncode == 0, done.stderr
    return folder


def test_one_file_has_record_history_pictures_and_every_evaluation(run: Path) -> None:
    (file,) = offline_files(run)
    logged, record = read_run_log(file), json.loads((run / "run.json").read_text())
    known = logged.config["record"]
    assert known["folder"] == run.name and known["signature"] == record["signature"] in run.name
    assert known["identity"] == record["identity"] and known["data"] == record["data"]
    assert known["git"] == {key: record["git"][key] for key in ("commit", "dirty")}
    assert known["files"]["config.yaml"] == (run / "config.yaml").read_text()
    summary = logged.summary
    assert (summary["status"], summary["end"], logged.exit_code) == ("done", record["end"], 0)
    training = {key: value for key, value in record["training"].items() if value is not None}
    assert {"parameters", "training_seconds", "iterations", "processes"} <= set(training)
    assert {key: summary[key] for key in training} == training
    assert set(summary["evaluations"]) == {"default", "paper"}
    for name, found in summary["evaluations"].items():
        results = json.loads((run / "evaluations" / name / "results.json").read_text())
        for key in ("bbox", "segm", "per_category", "speed", "images_evaluated", "settings", "data", "git"):
            assert found[key] == results[key], (name, key)
    own = json.loads((run / "evaluations" / "default" / "results.json").read_text())
    assert summary["segm/AP"] == own["segm"]["AP"] and summary["speed/fps"] == own["speed"]["fps"]
    steps = [row["step"] for row in read_history(file) if "train/loss" in row]
    assert steps == [2, 4, 6]
    assert any("predictions/captions" in row or "predictions" in row for row in read_history(file))
    assert list(run.glob("wandb/offline-run-*/files/media/images/*.jpg"))


def test_tables_from_the_file_are_those_of_the_folder(run: Path, tmp_path: Path) -> None:
    for evaluation in ("default", "paper"):
        made: list[dict[str, str]] = []
        for source in (f"runs={run.parent}", f"from=offline:{run}"):
            out = tmp_path / f"{evaluation}-{len(made)}"
            assert main([source, f"out={out}", f"eval={evaluation}", "intervals=false"]) == 0
            made.append({path.name: path.read_text().replace(f"`{run.name}`", "") for path in out.iterdir()})
        assert made[0] == made[1] and "Ours: shapes" in made[0]["comparison.md"]


def test_dashboards_show_what_runs_log(run: Path) -> None:
    """Every key of a panel is in wandb's history, summary or configuration."""
    (file,) = offline_files(run)
    logged = read_run_log(file)
    history = {key for row in read_history(file) for key in row} | {"predictions"}
    settings = {f"model.{key}" for key in logged.config["model"]} | {f"record.{key}" for key in logged.config["record"]}
    asked = 0
    for panel in (panel for section in sections() for panel in section.panels):
        for curve in getattr(panel, "y", None) or [] if type(panel).__name__ == "LinePlot" else []:
            assert curve in history, curve
            asked += 1
        if pattern := getattr(panel, "metric_regex", None):
            assert sum(re.fullmatch(pattern, key) is not None for key in history) == 3
            asked += 1
        for metric in getattr(panel, "metrics", []):
            assert metric in logged.summary or metric.rsplit("/", 1)[1] in ("APl", "APs", "APm"), metric
            asked += 1
        if (group := getattr(panel, "groupby", None)) is not None:
            assert group.name in settings, group
            asked += 1
        asked += sum(key in history for key in getattr(panel, "media_keys", []))
    assert asked > 30
