"""`hydra/sweeper=optuna`: trials are runs of the pool, a search goes on where it stopped, and tables show it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import analysis.make_tables
from htc.errors import UserError
from htc.launch.search import SearchOptions, trained_settings
from htc.launch.search_space import SearchSpace
from htc.runs.pool import read_rows
from tests.helpers.command import command, start
from tests.helpers.tiny_run import tiny

SPACE = ["schedule.learning_rate=tag(log,interval(0.0005,0.05))", "model.mask_flow=true,false"]


def arguments(runs: Path, iterations: int = 2, trials: int = 3) -> list[str]:
    common = ["device=cpu", "wandb.mode=disabled", "progress=false", "sweep=search", "hydra/sweeper=optuna"]
    return [*tiny(runs, iterations=iterations, images=(4, 4)), *common, f"sweeper.n_trials={trials}", *SPACE]


def content(runs: Path) -> dict[str, Any]:
    """Return the content of search.json."""
    found: dict[str, Any] = json.loads((runs / ".sweeps" / "search" / "search.json").read_text())
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule.learning_rate=interval(0,1)", FloatDistribution(0, 1)),
        ("schedule.learning_rate=tag(log,interval(0.001,1))", FloatDistribution(0.001, 1, log=True)),
        ("schedule.warmup_iterations=interval(1,500)", IntDistribution(1, 500)),
        ("schedule.warmup_iterations=tag(log,interval(1,500))", IntDistribution(1, 500, log=True)),
        ("model.num_stages=range(1,5)", IntDistribution(1, 4)),
        ("seed=range(0,10,4)", IntDistribution(0, 8, step=4)),
        ("schedule.momentum=range(0.5,1,0.1)", FloatDistribution(0.5, 1, step=0.1)),
        ("model.mask_flow=true,false", CategoricalDistribution(["true", "false"])),
        ("backbone=resnet18,resnet50", CategoricalDistribution(["resnet18", "resnet50"])),
        ("schedule.clip_norm=null,1,35", CategoricalDistribution(["null", "1", "35"])),
        ("schedule=glob(1*)", CategoricalDistribution(["1x"])),
    ],
)
def test_values_of_the_command_line_are_distributions(text: str, expected: object) -> None:
    space = SearchSpace.of({}, [text, "seed=1"] if not text.startswith("seed") else [text])
    assert list(space.distributions.values()) == [expected]
    key = text.partition("=")[0]
    assert space.overrides(space.any_values())[-1].startswith(f"{key}=")


def test_arguments_take_precedence_over_the_parameters_of_a_file() -> None:
    params = {"schedule.learning_rate": "tag(log, interval(0.01, 0.1))", "seed": 3, "checkpoint": "a.pt"}
    space = SearchSpace.of(params, ["seed=4", "model.semantic_loss_weight=interval(0,1)"])
    assert list(space.distributions) == ["schedule.learning_rate", "model.semantic_loss_weight"]
    assert space.fixed == ["seed=4", "checkpoint.file=a.pt"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["seed=1"], "nothing to search"),
        (["schedule.learning_rate=interval(1,0)"], "cannot be searched"),
        (["schedule.learning_rate=tag(log,interval(0,1))"], "cannot be searched"),
        (["schedule=glob(none*)"], "matches none of"),
    ],
)
def test_what_cannot_be_searched_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SearchSpace.of({}, given)


@pytest.mark.parametrize(
    "options", [{"n_trials": 0}, {"n_trials": True}, {"n_jobs": 0}, {"objective": "AP"}, {"sampler": "x"}, {"seed": -1}]
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"sweeper\.{next(iter(options))}="):
        SearchOptions(**options)


def test_objective_is_box_or_mask_ap_or_another_of_their_metrics() -> None:
    results = {"segm": {"AP": 0.3, "AP75": 0.2}, "bbox": {"AP": 0.4, "APs": float("nan")}}
    for objective, value, words in (
        ("segm", 0.3, "mask AP"), ("bbox", 0.4, "box AP"), ("segm.AP75", 0.2, "mask AP75"),
        ("bbox.APs", None, "box APs"), ("bbox.none", None, "box none"),
    ):  # fmt: skip
        options = SearchOptions(objective=objective)
        assert (options.value(results), options.words) == (value, words)


def test_settings_that_change_no_training_do_not_make_another_search() -> None:
    given = ["runs=x", "log_every=1", "seed=1", "+sweeps=a", "data.workers=0", "model=htc"]
    assert trained_settings(given) == ["+sweeps=a", "model=htc", "seed=1"]


def test_search_of_ordinary_runs_ends_in_a_table_and_goes_on_with_more_trials(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    planned = command("htc.run", *arguments(runs), "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "3 trials for the best mask AP, 0 of them done" in planned.stdout
    assert not runs.exists()
    first = command("htc.run", *arguments(runs), "sweeper.objective=bbox")
    assert first.returncode == 0, first.stderr
    assert "best of 3 trials: box AP" in first.stdout
    more = command("htc.run", *arguments(runs, trials=5), "sweeper.objective=bbox", "launcher.jobs=2")
    assert more.returncode == 0, more.stderr
    trials = content(runs)["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    assert all(trial["state"] == "complete" for trial in trials)
    assert len({trial["params"]["schedule.learning_rate"] for trial in trials}) == 5
    for trial, row in zip(trials, read_rows(runs, "search"), strict=True):
        assert (row.label, row.run) == (f"trial {trial['number']}", trial["run"])
        results = json.loads((runs / row.run / "evaluations" / "default" / "results.json").read_text())
        assert trial["value"] == results["bbox"]["AP"]
    again = command("htc.run", *arguments(runs, trials=5), "sweeper.objective=bbox")
    assert "started" not in again.stdout and "best of 5 trials" in again.stdout
    text = analysis.make_tables.make_tables(runs, tmp_path / "tables", "search")
    assert "## Search search" in text and "5 trials, 0 of which failed" in text
    assert (tmp_path / "tables" / "search_search.csv").read_text().count("\n") == 6
    # Other settings would make trials that cannot be compared.
    for changed, words in (
        (["seed=1", "sweeper.objective=bbox"], "what is the same in all trials: new: seed=1"),
        (["sweeper.objective=segm"], "sweeper.objective: new: segm, before: bbox"),
        (["sweeper.objective=bbox", "model.semantic_loss_weight=interval(0,1)"], "what varies: new: model.semantic"),
        (["sweeper.objective=bbox", "model.mask_flow=true,false,null"], "the choices of model.mask_flow: new: null"),
    ):
        refused = command("htc.run", *arguments(runs, trials=9), *changed)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_failed_trials_are_counted_and_do_not_stop_a_search(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    given = [*arguments(runs, trials=4), "checkpoint=null,nowhere.pt", "sweeper.sampler=random", "sweeper.seed=1"]
    ended = command("htc.run", *given, "launcher.jobs=2")
    trials = content(runs)["trials"]
    failed = [trial for trial in trials if trial["state"] == "fail"]
    assert len(trials) == 4 and {trial["params"]["checkpoint.file"] for trial in failed} == {"nowhere.pt"}
    assert ended.returncode == 0 and f"best of {4 - len(failed)} trials" in ended.stdout
    assert f"4 trials, {len(failed)} of which failed" in analysis.make_tables.make_tables(runs, tmp_path / "tables")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sweep=null"], "as in sweep=SEARCH"),
        (["+sweep=components"], "a search has no rows"),
        (["sweeper.trials=3"], "sweeper.trials is not an option of the sweeper; did you mean n_trials"),
        (["schedule.learning_rat=interval(0,1)"], "did you mean schedule.learning_rate"),
        (["model.num_stages=7"], "model.num_stages=7"),
    ],
)
def test_what_is_wrong_with_a_search_is_one_sentence(tmp_path: Path, given: list[str], words: str) -> None:
    result = command("htc.run", *arguments(tmp_path / "runs"), *given)
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_interrupted_search_resumes_its_runs_and_a_second_process_is_refused(tmp_path: Path) -> None:
    from tests.cluster.observe import wait_until

    runs = tmp_path / "runs"
    given = [*arguments(runs, iterations=40, trials=2), "save.every=2"]
    process = start("htc.run", *given)
    wait_until(lambda: list(runs.glob("*/checkpoints/step_*.pt")), "a checkpoint")
    second = command("htc.run", *given)
    assert second.returncode == 2 and "another process works on the search" in second.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    ended = command("htc.run", *given)
    assert ended.returncode == 0, ended.stderr
    assert len(content(runs)["trials"]) == 2 and len(list(runs.glob("*/run.json"))) == 2
    resumed = [json.loads(path.read_text())["resumes"] for path in runs.glob("*/run.json")]
    assert sorted(map(len, resumed)) == [0, 1]
