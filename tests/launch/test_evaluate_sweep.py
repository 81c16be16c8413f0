"""Evaluation of a whole sweep again, and what a launch does with runs that several sweeps name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from htc.config.compose import composed_config
from htc.config.signature import identity, to_plain
from htc.runs.folder import RunFolder
from htc.runs.pool import read_rows
from tests.helpers.command import command, start
from tests.helpers.tiny_run import tiny_launched


def launch(runs: Path, *arguments: str) -> str:
    result = command("htc.run", "-m", *tiny_launched(runs, iterations=2), "log_every=1", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of a sweep of two seeds, of which one is trained, and another sweep of which it is a row."""
    runs = tmp_path_factory.mktemp("launched") / "runs"
    launch(runs, "sweep=first", "seed=0")
    launch(runs, "sweep=second", "seed=0,1")
    return runs


@pytest.fixture
def pool(launched: Path, tmp_path: Path) -> Path:
    shutil.copytree(launched.parent, tmp_path / "copy")
    return tmp_path / "copy" / "runs"


def runs_of(pool: Path) -> list[Path]:
    return sorted(path for path in pool.glob("[!.]*"))


def test_run_of_two_sweeps_is_trained_once(pool: Path) -> None:
    assert len(runs_of(pool)) == 2
    (first,), second = read_rows(pool, "first"), read_rows(pool, "second")
    assert first.run == second[0].run and len(second) == 2
    assert "nothing to start, 2 done" in launch(pool, "sweep=third", "seed=0,1")
    assert len(read_rows(pool, "third")) == 2


def test_sweep_is_evaluated_again_and_not_trained_and_keeps_its_rows(pool: Path) -> None:
    before = read_rows(pool, "second")
    records = [(run / "metrics.jsonl").read_bytes() for run in runs_of(pool)]
    planned = command("htc.evaluate", "sweep=second", f"runs={pool}", "eval=paper", "--dry-run")
    assert planned.returncode == 0 and "2 runs: 2 to evaluate" in planned.stdout
    result = command("htc.evaluate", "sweep=second", f"runs={pool}", "eval=paper", "launcher.jobs=1")
    assert result.returncode == 0, result.stderr
    for run in runs_of(pool):
        assert RunFolder(run).read_results("paper")["settings"]["eval.score_threshold"] == 0.001
        assert RunFolder(run).read().status == "done"
    assert records == [(run / "metrics.jsonl").read_bytes() for run in runs_of(pool)]
    assert read_rows(pool, "second") == before
    again = command("htc.evaluate", "sweep=second", f"runs={pool}", "eval=paper")
    assert "nothing to start, 2 done" in again.stdout


def test_repeated_run_is_evaluated_in_its_own_folder(pool: Path) -> None:
    launch(pool, "sweep=repeated", "seed=0", "force=true")
    (row,) = read_rows(pool, "repeated")
    assert row.run.endswith("-r2")
    result = command("htc.evaluate", "sweep=repeated", f"runs={pool}", "eval=paper")
    assert result.returncode == 0, result.stderr
    assert [run.name for run in runs_of(pool) if (run / "evaluations" / "paper").is_dir()] == [row.run]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep=second", "seed=3"], "seed=3 changes the training"),
        (["sweep=secnd"], "did you mean second"),
        (["sweep=second", "eval=papr"], "eval=papr is not one of"),
        (["sweep=second", "out=x"], "out has no meaning with sweep=second"),
        (["sweep=second", "launcher.job=1"], "job"),
        (["run=x", "launcher.jobs=1"], "has no meaning without sweep=NAME"),
    ],
)
def test_evaluation_of_a_sweep_that_makes_no_sense_is_one_sentence(
    launched: Path, arguments: list[str], message: str
) -> None:
    result = command("htc.evaluate", *arguments, f"runs={launched}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and message in result.stderr


def test_failed_evaluation_leaves_the_run_done_and_says_why(launched: Path, pool: Path) -> None:
    (annotations,) = (launched.parent / "data").glob("*/annotations/instances_val2017.json")
    gone = annotations.rename(annotations.with_suffix(".gone"))
    try:
        result = command("htc.evaluate", "sweep=first", f"runs={pool}", "eval=paper")
    finally:
        gone.rename(annotations)
    assert result.returncode == 1 and "instances_val2017.json does not exist" in result.stderr
    (row,) = read_rows(pool, "first")
    assert RunFolder(pool / row.run).read().status == "done"
    shown = command("htc.status", "first", f"runs={pool}").stdout
    assert "first: 1 done" in shown and "instances_val2017.json does not exist" in shown


SWEEP = """# @package _global_
sweep: own
hydra:
  mode: MULTIRUN
  sweeper:
    rows:
      A: checkpoint.file={}
"""


def test_corrected_row_replaces_the_failed_one_and_other_arguments_add_rows(tmp_path: Path) -> None:
    file = tmp_path / "mine" / "sweeps" / "own.yaml"
    file.parent.mkdir(parents=True)
    runs = tmp_path / "runs"

    def launched_with(weights: str, *arguments: str) -> int:
        file.write_text(SWEEP.format(weights))
        overrides = [*tiny_launched(runs, iterations=1), "log_every=1", *arguments]
        return command("htc.run", "+sweep=own", *overrides, HTC_CONFIG_DIR=str(tmp_path / "mine")).returncode

    assert launched_with("typo.pt") == 1
    (failed,) = read_rows(runs, "own")
    assert launched_with("null") == 0
    (good,) = read_rows(runs, "own")
    assert good.run != failed.run and (good.label, good.given) == (failed.label, failed.given)
    assert (runs / failed.run).is_dir(), "the run itself stays"
    assert launched_with("null", "seed=1") == 0
    assert len(read_rows(runs, "own")) == 2


def test_plan_names_a_finished_run_that_differs_only_in_the_place_of_its_data(tmp_path: Path) -> None:
    data = tmp_path / "coco"
    data.mkdir()
    (tmp_path / "copy").symlink_to(data)
    arguments = ["-m", "data=coco", f"runs={tmp_path / 'runs'}", "--dry-run"]
    first = command("htc.run", *arguments, f"data.root={data}")
    (name,) = re.findall(r"^(htc-\S+-[0-9a-f]{8}) ", first.stdout, re.MULTILINE)
    config = composed_config(["data=coco", f"data.root={data}"])
    record = {"status": "done", "identity": identity(to_plain(config))}
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / name / "run.json").write_text(json.dumps(record))
    same = command("htc.run", *arguments, f"data.root={tmp_path / 'copy'}")
    assert "note:" not in same.stdout, "a link to the same folder is the same run"
    other = command("htc.run", *arguments, "data.root=/elsewhere/coco")
    assert f"differs from done run {name} only in data.root (data.root: /elsewhere/coco, there" in other.stdout


@pytest.mark.slow
def test_two_launches_of_overlapping_sweeps_at_once_run_nothing_twice(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = [*tiny_launched(runs, iterations=2), "log_every=1"]
    both = [start("htc.run", f"+sweep={sweep}", *arguments) for sweep in ("components", "semantic_fusion")]
    outputs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(runs_of(runs)) == 6, "8 rows: full HTC and the one without its semantic branch are in both sweeps"
    assert sum(int(re.findall(r"(\d+) started", out)[0]) for out, _ in outputs) == 6
    for run in runs_of(runs):
        record = RunFolder(run).read()
        assert record.status == "done" and record.resumes == []
        assert record.launch is not None and record.launch.failures == []
    states = json.loads(command("htc.status", "components", "semantic_fusion", f"runs={runs}", "--json").stdout)
    assert {row["state"] for row in states} == {"done"} and len(states) == 8
