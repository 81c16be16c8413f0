"""The runs that a sweep's rows, parameters and arguments describe, and their estimated cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.compose import composed_config
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from htc.launch.estimate import Throughput
from htc.launch.sweep import Composer, expand
from tests.helpers.command import ROOT, command, run_code
from tests.helpers.composition import compose_fully

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def test_command_line_wins_over_row_and_row_over_parameter() -> None:
    rows = expand(
        {"seed": "0,1", "log_every": 7}, {"a": "log_every=8 device=cpu", "b": None}, ["device=cuda", "seed=3"]
    )
    assert rows == [
        ["seed=3", "log_every=8", "device=cuda", "name=a-seed3"],
        ["seed=3", "log_every=7", "device=cuda", "name=b-seed3"],
    ]


def test_every_row_is_combined_with_every_choice() -> None:
    rows = expand({"seed": "0,1"}, {"a": "", "b": ""}, ["log_every=1,2"])
    assert len(rows) == len({tuple(row) for row in rows}) == 8
    assert expand({}, {}, ["seed=0,1"]) == [["seed=0"], ["seed=1"]]


def test_a_row_that_is_no_override_is_refused_with_its_label() -> None:
    with pytest.raises(UserError, match="row 'broken' of the sweep"):
        expand({}, {"broken": "no_override"}, [])
    with pytest.raises(UserError, match="row 'deep' of the sweep has no entry for data=mine, only for coco"):
        expand({}, {"deep": {"coco": "seed=1"}}, ["data=mine"])


def test_quick_composition_equals_that_of_hydra() -> None:
    rows = [
        ["data=coco", "data.root=/coco", f"seed={seed}", f"model.semantic={semantic}", f"precision={precision}",
         f"model.stage_loss_weights={weights}", f"model={model}", "schedule.clip_norm=null"]
        for seed, semantic, precision, weights, model in [
            (0, "true", "fp32", "[1,1,1]", "htc"), (1, "false", "bf16", "null", "htc"),
            (2, "false", "fp16", "null", "cascade_mask_rcnn"),
        ]
    ]  # fmt: skip
    quick = Composer(compose_fully).configs(rows)
    assert [signature(config) for config in quick] == [signature(composed_config(row)) for row in rows]
    assert quick == [composed_config(row) for row in rows]


def test_an_experiment_whose_values_refer_to_each_other_is_composed_in_full() -> None:
    rows = [["experiment=overfit_coco", "data.root=x", f"data.train.limit={limit}"] for limit in (3, 5)]
    assert [config.data.val.limit for config in Composer(compose_fully).configs(rows)] == [3, 5]


@pytest.mark.parametrize("bad", ["seed=many", "model.num_stages=9", "nonsense=1"])
def test_a_bad_value_in_one_row_is_refused(bad: str) -> None:
    with pytest.raises((UserError, HydraException, OmegaConfBaseException), match=bad.split("=")[0].split(".")[-1]):
        Composer(compose_fully).configs([["seed=0"], ["seed=1", bad]])


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize(
    "data",
    [["data=shapes", "schedule=short"], ["data=coco", "schedule=20e", "data.root=/coco"]],
    ids=["shapes", "coco"],
)
def test_every_sweep_plans_distinct_runs_on_both_data_sets(sweep: str, data: list[str], tmp_path: Path) -> None:
    result = command("htc.run", "-m", f"+sweep={sweep}", *data, "seed=0,1", f"runs={tmp_path}", "--dry-run")
    assert result.returncode == 0, result.stderr
    rows = OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml").hydra.sweeper.rows
    assert f"{2 * len(rows)} runs: {2 * len(rows)} to start" in result.stdout
    assert "GPU HOURS" in result.stdout
    assert not (tmp_path / sweep).exists()


def test_the_flag_of_a_sweep_may_stand_anywhere(tmp_path: Path) -> None:
    result = command("htc.run", "seed=0,1", "-m", f"runs={tmp_path}", "--dry-run", "model.mask_flow=false")
    assert result.returncode == 0, result.stderr
    assert "2 runs: 2 to start" in result.stdout


def test_gpu_hours_are_summed_over_all_devices_however_many_were_measured(tmp_path: Path) -> None:
    config = to_plain(
        composed_config(["schedule.iterations=100", "schedule.batch_size=8", "schedule.reference_batch=8"])
    )
    for processes, folder in ((1, "one"), (4, "four")):
        run = tmp_path / folder / "runs" / "run"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(OmegaConf.to_yaml(config))
        # 800 images take an hour on one device, or a quarter of an hour on four.
        training = {"iterations": 100, "training_seconds": 3600 / processes, "processes": processes}
        (run / "run.json").write_text(json.dumps({"status": "done", "training": training}))
        throughput = Throughput(tmp_path / folder / "runs")
        assert throughput.hours(config) == pytest.approx(1)
        longer = composed_config(["schedule.iterations=300", "schedule.batch_size=8", "schedule.reference_batch=8"])
        assert throughput.hours(to_plain(longer)) == pytest.approx(3)


EVERY_ROW = """
import sys
from omegaconf import OmegaConf
from htc.experiment import run_experiment
from htc.launch.sweep import Composer, expand
from tests.helpers.command import ROOT
from tests.helpers.composition import compose_fully

sweep, *arguments = sys.argv[1:]
given = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml").hydra.sweeper)
rows = expand(given["params"], given["rows"], [f"+sweeps={sweep}", *arguments])
for config in Composer(compose_fully).configs(rows):
    run_experiment(config, [])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_runs_on_the_built_in_data(sweep: str, tmp_path: Path) -> None:
    """Run the rows in one process, one after the other; other tests cover launchers, which use a process per run."""
    small = ["schedule.iterations=1", "data.shapes.train_images=16", "data.shapes.val_images=2", "eval.limit=1"]
    result = run_code(
        EVERY_ROW, sweep, "data=shapes", "schedule=short", *small, f"runs={tmp_path / 'runs'}",
        f"data.root={tmp_path / 'data'}", "data.workers=0", "wandb.mode=disabled",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    results = list((tmp_path / "runs").glob("*/evaluations/default/results.json"))
    assert len(results) == len(OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml").hydra.sweeper.rows)
