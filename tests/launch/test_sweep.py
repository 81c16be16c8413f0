"""The runs that a sweep's rows, parameters and arguments describe, and their estimated cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.compose import composed_config
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from htc.launch.composer import Composer
from htc.launch.estimate import Throughput
from htc.launch.sweep import SweepRow, expand, expand_sweeps, select_rows
from tests.helpers.command import ROOT, command, run_code
from tests.helpers.composition import compose_fully

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def overrides_of(rows: list[SweepRow]) -> list[list[str]]:
    return [row.overrides for row in rows]


def test_command_line_wins_over_row_and_row_over_parameter() -> None:
    rows = expand(
        {"seed": "0,1", "log_every": 7}, {"a": "log_every=8 device=cpu", "b": None}, ["device=cuda", "seed=3"]
    )
    assert rows == [
        SweepRow(["seed=3", "log_every=8", "device=cuda"], "a", {}, ("seed=3", "device=cuda")),
        SweepRow(["seed=3", "log_every=7", "device=cuda"], "b", {}, ("seed=3", "log_every=7", "device=cuda")),
    ]


def test_every_row_is_combined_with_every_choice() -> None:
    rows = overrides_of(expand({"seed": "0,1"}, {"a": "", "b": ""}, ["log_every=1,2"]))
    assert len(rows) == 8 and len({tuple(row) for row in rows}) == 4
    assert overrides_of(expand({}, {}, ["seed=0,1"])) == [["seed=0"], ["seed=1"]]


@pytest.mark.parametrize("seeds", ["0,1,2", "range(3)", [0, 1, 2], "range(0,3)", "choice(0,1,2)"])
def test_parameters_may_be_written_in_every_way(seeds: object) -> None:
    assert overrides_of(expand({"seed": seeds}, {}, [])) == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_glob_chooses_options_of_a_group() -> None:
    found = overrides_of(expand({}, {}, ["backbone=glob(resnext*)"]))
    assert found == [[f"backbone=resnext101_{name}"] for name in ("32x4d", "32x8d", "64x4d")]
    with pytest.raises(UserError, match=r"backbone=glob\(vit\*\) matches none of resnet101"):
        expand({}, {}, ["backbone=glob(vit*)"])
    with pytest.raises(UserError, match="infinitely many values"):
        expand({}, {}, ["model.semantic_loss_weight=interval(0,1)"])


@pytest.mark.parametrize("label", ["β = 0.5", "größer, schneller", 'a "b" [c] (d)', "3.5", "", "a=b", "x/y", "null"])
def test_label_may_hold_any_characters(label: str) -> None:
    (row,) = expand({}, {label: "seed=3"}, [])
    assert (row.label, row.overrides) == (label, ["seed=3"])
    assert select_rows({label: "seed=3", "other": ""}, [label]) == {label: "seed=3"}


def test_rows_are_chosen_by_label_and_pattern() -> None:
    rows = dict.fromkeys(["cascade", "+ mask flow", "+ semantic", "[a]"], "")
    assert list(select_rows(rows, ["+ semantic", "*flow"])) == ["+ mask flow", "+ semantic"]
    assert list(select_rows(rows, ["[a]"])) == ["[a]"]
    with pytest.raises(UserError, match="rows=cascad names no row of the sweep; did you mean cascade; the labels are"):
        select_rows(rows, ["cascad"])


def test_row_may_have_options_of_the_launcher() -> None:
    options = {"gpus_per_node": 8, "time": "2-00:00:00"}
    (row,) = expand({}, {"large": {"overrides": "backbone=resnet101", "launcher": options}}, [])
    assert (row.overrides, row.launcher) == (["backbone=resnet101"], options)
    (row,) = expand({}, {"large": {"overrides": {"coco": "seed=1", "shapes": "seed=2"}, "launcher": options}}, [])
    assert row.overrides == ["seed=2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no_override", "row 'broken' of the sweep is 'no_override': write overrides"),
        ("name='a", "row 'broken' of the sweep is"),
        (3, "row 'broken' of the sweep is 3"),
        ({"coco": "seed=1"}, "row 'broken' of the sweep has no entry for data=shapes, only for coco"),
        ({"overrides": "seed=1", "launchr": {}}, "has the key launchr; did you mean launcher"),
        ({"overrides": "seed=1", "launcher": "gpus=3"}, "launcher must be options"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_its_label(row: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand({}, {"broken": row}, [])


def test_several_sweeps_are_expanded_each_with_its_rows() -> None:
    rows = expand_sweeps({}, {}, ["+sweeps=components,beta", "seed=1"])
    assert len(rows) == 9
    assert all("+sweeps=components" in row.overrides for row in rows[:4])
    assert all("+sweeps=beta" in row.overrides and "seed=1" in row.overrides for row in rows[4:])
    assert [row.label for row in expand_sweeps({}, {}, ["+sweeps=glob(*)"], ["HTC"])] == ["HTC", "HTC"]
    with pytest.raises(UserError, match=r"\+sweep=bta is not one of beta, .*did you mean beta"):
        expand_sweeps({}, {}, ["+sweeps=components,bta"])


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
    assert "GPU HOURS" in result.stdout and all(label in result.stdout for label in rows)
    assert not list(tmp_path.iterdir())


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
from htc.launch.sweep import expand
from htc.launch.composer import Composer
from tests.helpers.command import ROOT
from tests.helpers.composition import compose_fully

sweep, *arguments = sys.argv[1:]
given = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml").hydra.sweeper)
rows = expand(given["params"], given["rows"], [f"+sweeps={sweep}", *arguments])
for config in Composer(compose_fully).configs([row.overrides for row in rows]):
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
    results = list((tmp_path / "runs").glob("*/evaluations/*/results.json"))
    given = yaml.safe_load((ROOT / "sweeps" / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]
    assert len(results) == len(expand(given["params"], given["rows"], []))


def test_short_forms_of_keys_work_in_rows_and_parameters_as_on_the_command_line() -> None:
    rows = expand({"checkpoint": "a.pt"}, {"longer": "continue=RUN", "own": "checkpoint=b.pt"}, [])
    assert [row.overrides for row in rows] == [
        ["checkpoint.file=a.pt", "continue_from=RUN"],
        ["checkpoint.file=b.pt"],
    ]
