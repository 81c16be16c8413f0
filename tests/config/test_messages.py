"""The configuration: what is refused and how, what a signature depends on, and that `--help` is quick."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from htc.config.checks import check_ranges, check_training
from htc.config.compose import recorded_config
from htc.config.finalize import finalize
from htc.config.folders import CONFIG_FOLDER, group_options
from htc.config.schema import Config, register, schema_fields
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from tests.helpers.command import command, run_code
from tests.helpers.refused_settings import MEANINGLESS, REFUSED


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m htc.run` with a folder of runs of its own."""
    return command("htc.run", *arguments, f"runs={folder}/runs")


@pytest.mark.parametrize(("arguments", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_ends_in_one_sentence_that_names_it(
    tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    result = run(*arguments, folder=tmp_path)
    assert result.returncode == 2
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in expected:
        assert part in sentence
    assert "Traceback" not in result.stderr + result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json")), "a refused run leaves no run behind"


def test_errors_that_are_causes_of_each_other_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OC_CAUSE", "1")
    result = run("model.stage_stds=[[1,1,1,1]]", folder=tmp_path)
    assert result.returncode == 2
    assert "model.stage_stds[0]: Value 1 (int)" in result.stderr


def configuration(*overrides: str) -> Config:
    """Return the configuration of a command line, composed in this process."""
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return finalize(compose("config", list(overrides)))


@pytest.mark.parametrize(("named", "overrides"), MEANINGLESS.items(), ids=MEANINGLESS.keys())
def test_settings_without_meaning_are_refused_before_anything_starts(named: str, overrides: list[str]) -> None:
    with pytest.raises(UserError, match=named) as caught:
        configuration(*overrides)
    assert "\n" not in str(caught.value)


def test_stages_frozen_at_random_weights_are_refused_in_training_alone() -> None:
    config = configuration("data=coco", "data.root=somewhere", "backbone.weights=null")
    with pytest.raises(UserError, match=r"backbone\.frozen_stages=1 with backbone\.weights=null.*frozen_stages=-1"):
        check_training(config)
    for remedy in ("backbone.frozen_stages=-1", "backbone.weights=w.pth", "checkpoint.file=c.pt"):
        check_training(configuration("data=coco", "data.root=somewhere", "backbone.weights=null", remedy))


@pytest.mark.parametrize("model", ["htc", "cascade_mask_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("data", ["shapes", "coco"])
def test_every_model_and_data_set_makes_a_configuration(model: str, data: str) -> None:
    config = configuration(f"model={model}", f"data={data}", "data.root=somewhere")
    assert config.model.name == model and config.data.name == data
    assert config.model.stage_ious == [0.5, 0.6, 0.7][: config.model.num_stages]


@pytest.mark.parametrize("group", ["backbone", "schedule", "eval", "size", "experiment"])
def test_every_option_of_a_group_makes_a_configuration(group: str) -> None:
    for option in group_options(group):
        configuration("data=coco", "data.root=somewhere", f"{group}={option}")


def test_paper_settings_are_the_papers() -> None:
    model = configuration("model=htc", "data=coco", "data.root=somewhere").model
    assert model.interleaved and model.mask_flow and model.semantic
    assert model.stage_loss_weights == [1.0, 0.5, 0.25]
    assert model.stage_stds == [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]


def test_what_cannot_change_a_result_is_not_in_the_signature() -> None:
    changes = [
        "name=other", "sweep=other", "runs=elsewhere", "force=true", "device=cpu", "threads=1", "log_every=7",
        "progress=false", "wandb.mode=offline", "wandb.project=other", "save.every=7", "save.keep=7", "data.workers=7",
        "schedule.eval_every=7",
    ]  # fmt: skip
    assert {signature(configuration(change)) for change in changes} == {signature(configuration())}


def test_what_changes_a_result_changes_the_signature() -> None:
    changes = [
        (), ("seed=1",), ("model.mask_flow=false",), ("model.interleaved=false",), ("model.semantic=false",),
        ("model.semantic_fusion=mask",), ("model.stage_ious=[0.5,0.6,0.65]",), ("model=cascade_mask_rcnn",),
        ("backbone.width=16",), ("schedule.learning_rate=0.01",), ("schedule.accumulate=2",), ("data.flip=0",),
        ("data.shapes.seed=1",), ("precision=bf16",),
    ]  # fmt: skip
    assert len({signature(configuration(*change)) for change in changes}) == len(changes)


def test_default_spelled_out_is_the_same_run() -> None:
    spelled = configuration(
        "model.stage_loss_weights=[1,0.5,0.25]", "model.stage_ious=[0.5,0.6,0.7]", "model.semantic_fusion=both",
        "model.stage_stds=[[0.1,0.1,0.2,0.2],[0.05,0.05,0.1,0.1],[0.033,0.033,0.067,0.067]]",
    )  # fmt: skip
    assert signature(spelled) == signature(configuration())
    assert spelled.name == configuration().name


def test_name_shows_the_ablation() -> None:
    assert configuration().name == "htc-resnet18-shapes-seed0"
    config = configuration("model.mask_flow=false", "model.semantic_fusion=mask", "seed=3", "backbone=resnet50")
    assert config.name == "htc-no_mask_flow-fusion_mask-resnet50-shapes-seed3"


@pytest.mark.parametrize(
    "overrides", [[], ["model=mask_rcnn"], ["data=coco", "data.root=somewhere", "precision=bf16", "data.shapes=null"]]
)
def test_recorded_configuration_is_the_same_run(tmp_path: Path, overrides: list[str]) -> None:
    config = configuration(*overrides)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    again = recorded_config(yaml.safe_load(file.read_text()), [])
    assert again == config and signature(again) == signature(config)


def test_recorded_configuration_takes_changes() -> None:
    recorded = to_plain(configuration())
    changed = recorded_config(recorded, ["eval=paper", "eval.nms_iou=0.4", "device=cpu"])
    assert (changed.eval.score_threshold, changed.eval.nms_iou, changed.device) == (0.001, 0.4, "cpu")
    with pytest.raises(UserError, match="eval=papr is not one of default, paper; did you mean paper"):
        recorded_config(recorded, ["eval=papr"])


@pytest.mark.parametrize(
    "change",
    [
        {"name": "${oc.env:HTC_TEST_SECRET}"}, {"wandb": {"project": "a ${seed}"}}, {"${seed}": 1},
        {"model": {"stage_ious": ["${oc.env:HTC_TEST_SECRET}"]}},
    ],
)  # fmt: skip
def test_reference_in_a_recorded_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setenv("HTC_TEST_SECRET", "mackerel")
    recorded: Any = {**to_plain(configuration()), **change}
    with pytest.raises(UserError, match=r"the recorded configuration contains '.*\$\{") as caught:
        recorded_config(recorded, [])
    assert "mackerel" not in caught.value.sentence


def test_recorded_configuration_that_holds_itself_is_refused() -> None:
    recorded: Any = to_plain(configuration())
    recorded["data"]["train"] = recorded
    with pytest.raises(UserError, match="nested too deeply"):
        recorded_config(recorded, [])


@pytest.mark.parametrize("override", ["data.root=[x", "name='a", "seed={a: b: c}", "name=!!set x"])
def test_change_that_cannot_be_read_is_named(override: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{override} cannot be read (")) as caught:
        recorded_config(to_plain(configuration()), [override])
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model.mask_flw=true"], ["model.num_stages=1"]])
def test_asking_and_being_refused_do_not_wait_for_pytorch(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n"
        "    runpy.run_module('htc.run', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'cv2', 'pycocotools', 'wandb', 'numpy'} & set(sys.modules)\n"
        "    print('imported:', sorted(heavy), file=sys.stderr)\n"
    )
    result = run_code(code)
    assert "imported: []" in result.stderr
    assert result.returncode == (0 if arguments[0].startswith("--") else 2)


def test_help_lists_the_groups_and_cfg_the_keys(tmp_path: Path) -> None:
    helped = run("--help", folder=tmp_path)
    assert helped.returncode == 0 and "cascade_mask_rcnn" in helped.stdout
    shown = run("--cfg", "job", folder=tmp_path)
    assert shown.returncode == 0
    assert yaml.safe_load(shown.stdout)["model"]["interleaved"] is True


@pytest.mark.parametrize(
    "override", ["log_every=0", "save.every=0", "data.flip=2", "schedule.reference_batch=0", "seed=-1", "threads=0",
                 "model.positive_fraction=3", "schedule.learning_rate=-1", "data.workers=-1", "model.num_stages=6"],
)  # fmt: skip
def test_number_out_of_range_is_refused_by_name(override: str) -> None:
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        composed = compose("config", [override])
    key = override.split("=")[0]
    with pytest.raises(UserError, match=f"{key}=.* is out of range"):
        finalize(composed)


RANGED = {key: item.metadata["range"] for key, item in schema_fields() if "range" in item.metadata}
"""Range of each key that has one."""


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def test_every_default_is_within_the_range_of_its_key(composed: Config) -> None:
    for key, allowed in RANGED.items():
        value = value_of(composed, key)
        if isinstance(value, int | float):
            assert allowed.low is None or value >= allowed.low, key
            assert allowed.high is None or value <= allowed.high, key
            assert value != allowed.excluded, key


@pytest.mark.parametrize("key", [key for key, allowed in RANGED.items() if allowed.low is not None])
def test_number_below_its_range_is_refused_by_name(composed: Config, key: str) -> None:
    parent, _, leaf = key.rpartition(".")
    setattr(value_of(composed, parent) if parent else composed, leaf, RANGED[key].low - 1)
    with pytest.raises(UserError, match=rf"^{re.escape(key)}=.* is out of range"):
        check_ranges(composed)


@pytest.fixture
def composed() -> Config:
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return finalize(compose("config"))
