"""Runs of the old layout, `runs/<sweep>/<name>-<signature>/`, become runs of the pool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from htc.config.compose import recorded_config
from htc.config.signature import signature
from htc.errors import UserError
from htc.launch.adopt import adopt
from htc.runs.folder import RunFolder
from htc.runs.pool import read_rows
from tests.helpers.command import command
from tests.helpers.tiny_run import tiny

NEW_KEYS = ("identity", "evaluated_data", "training", "data", "wandb")
"""Keys of run.json that the old layout did not have."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the present layout."""
    folder = tmp_path_factory.mktemp("finished")
    result = command("htc.run", *tiny(folder / "runs"), "wandb.mode=disabled")
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "runs").glob("[!.]*")
    return run


def old_run(run: Path, old: Path, sweep: str, name: str, *, status: str = "done", threshold: float = 0.05) -> Path:
    """Write a run as it was written before the pool: its results and predictions directly in its folder.

    Args:
        run: A run of the present layout.
        old: Folder of old runs.
        sweep: Name of the sweep, which was a folder.
        name: Name of the run's folder.
        status: Status in run.json.
        threshold: Score threshold of the evaluation, which was a part of the signature.
    """
    folder = Path(shutil.copytree(run, old / sweep / name))
    record = json.loads((folder / "run.json").read_text())
    training = record["training"]
    record = {key: value for key, value in record.items() if key not in NEW_KEYS}
    (folder / "run.json").write_text(json.dumps({**record, "sweep": sweep, "signature": "01234567", "status": status}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["eval"]["name"]
    config["sweep"], config["eval"]["score_threshold"] = sweep, threshold
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results = json.loads((folder / "evaluations" / "default" / "results.json").read_text())
    for key in ("settings", "data", "git"):
        del results[key]
    (folder / "results.json").write_text(json.dumps({**results, **training}))
    (folder / "predictions").mkdir()
    for kind in ("bbox", "segm"):
        (folder / "evaluations" / "default" / f"{kind}.json").rename(folder / "predictions" / f"{kind}.json")
    shutil.rmtree(folder / "evaluations")
    return folder


def test_old_run_becomes_the_run_that_its_configuration_names(finished: Path, tmp_path: Path) -> None:
    old_run(finished, tmp_path / "old", "beta", "beta_0.2-seed0-01234567")
    adopt(tmp_path / "old", tmp_path / "pool")
    (run,) = (tmp_path / "pool").glob("[!.]*")
    folder, was = RunFolder(run), RunFolder(finished)
    assert run.name == finished.name
    record, before = folder.read(), was.read()
    assert (record.signature, record.identity, record.training) == (before.signature, before.identity, before.training)
    assert record.evaluated_data == before.evaluated_data and record.other == {}
    assert folder.read_results("default")["segm"] == was.read_results("default")["segm"]
    assert folder.read_results("default")["settings"] == was.read_results("default")["settings"]
    assert (run / "evaluations" / "default" / "segm.json").is_file() and not (run / "predictions").exists()
    assert signature(recorded_config(folder.read_config(), [])) == record.signature
    assert [row.run for row in read_rows(tmp_path / "pool", "beta")] == [run.name]
    assert not (tmp_path / "old" / "beta" / "beta_0.2-seed0-01234567").exists()
    again = command("htc.run", *tiny(tmp_path / "pool", finished.parents[1] / "data"), "wandb.mode=disabled")
    assert "is done already" in again.stdout, "the run is found by the present signature"


def test_one_training_in_two_sweeps_and_with_two_evaluations_is_one_run(finished: Path, tmp_path: Path) -> None:
    old_run(finished, tmp_path / "old", "beta", "beta-11111111")
    old_run(finished, tmp_path / "old", "components", "semantic-22222222")
    old_run(finished, tmp_path / "old", "single", "htc-33333333", threshold=0.001)
    adopt(tmp_path / "old", tmp_path / "pool")
    (run,) = (tmp_path / "pool").glob("[!.]*")
    assert sorted(path.name for path in (run / "evaluations").iterdir()) == ["default", "paper"]
    assert [len(read_rows(tmp_path / "pool", sweep)) for sweep in ("beta", "components", "single")] == [1, 1, 0]
    assert not list((tmp_path / "old").glob("*/*"))


def test_another_training_of_the_same_configuration_is_kept_beside_it(finished: Path, tmp_path: Path) -> None:
    old_run(finished, tmp_path / "old", "a", "first-11111111")
    second = old_run(finished, tmp_path / "old", "b", "second-22222222")
    shutil.rmtree(second / "checkpoints")
    adopt(tmp_path / "old", tmp_path / "pool")
    names = sorted(path.name for path in (tmp_path / "pool").glob("[!.]*"))
    assert names == [finished.name, f"{finished.name}-r2"]


def test_dry_run_changes_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = old_run(finished, tmp_path / "old", "a", "first-11111111")
    before = sorted(tmp_path.rglob("*"))
    adopt(tmp_path / "old", tmp_path / "pool", dry_run=True)
    assert f"{run} would become {tmp_path / 'pool' / finished.name}" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_interrupted_adoption_continues(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old_run(finished, tmp_path / "old", "a", "first-11111111")

    def interrupt(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("htc.launch.adopt.shutil.move", interrupt)
        with pytest.raises(KeyboardInterrupt):
            adopt(tmp_path / "old", tmp_path / "pool")
    adopt(tmp_path / "old", tmp_path / "pool")
    (run,) = (tmp_path / "pool").glob("[!.]*")
    assert RunFolder(run).read_results("default")["segm"] and RunFolder(run).read().other == {}


def test_what_cannot_be_adopted_stays_and_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = old_run(finished, tmp_path / "old", "a", "broken-11111111")
    (broken / "config.yaml").write_text("model: {")
    unfinished = old_run(finished, tmp_path / "old", "a", "unfinished-22222222", status="preempted")
    (unfinished / "results.json").unlink()
    adopt(tmp_path / "old", tmp_path / "pool")
    assert f"left where it is: {broken}: its config.yaml cannot be used" in capsys.readouterr().out
    assert broken.is_dir() and not unfinished.exists()
    (run,) = (tmp_path / "pool").glob("[!.]*")
    assert RunFolder(run).read().status == "preempted"


def test_folder_without_old_runs_and_runs_in_use_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no runs of the old layout"):
        adopt(tmp_path, tmp_path / "pool")
    run = old_run(finished, tmp_path / "old", "a", "first-11111111")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom htc.runs.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]))\nlock.acquire()\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use"):
            adopt(tmp_path / "old", tmp_path / "pool")
    finally:
        holder.kill()
        holder.wait()
    assert run.is_dir()
