"""The signature tells trainings apart: by everything that can change the weights, and by nothing else."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from htc.config.compose import composed_config, recorded_config
from htc.config.folders import SWEEPS_FOLDER
from htc.config.schema import Affects, schema_fields
from htc.config.signature import affected, identity, signature, to_plain

COCO = ["data=coco", "data.root=/datasets/coco"]


def same(*variants: list[str]) -> bool:
    """Return whether all overrides make one run."""
    return len({signature(composed_config(overrides)) for overrides in variants}) == 1


def shipped_rows() -> list[str]:
    """Return the overrides of every row of the shipped sweeps on COCO."""
    rows = []
    for path in sorted(SWEEPS_FOLDER.glob("*.yaml")):
        for row in yaml.safe_load(path.read_text())["hydra"]["sweeper"]["rows"].values():
            rows.append(row["coco"] if isinstance(row, dict) else row)
    return rows


def test_shipped_sweeps_are_24_trainings_for_34_rows() -> None:
    rows = shipped_rows()
    signatures = [signature(composed_config([*COCO, *shlex.split(row)])) for row in rows]
    assert (len(rows), len(set(signatures))) == (34, 24)
    assert signatures.count(signature(composed_config(COCO))) == 7, "full HTC is a row of every shipped sweep"


@pytest.mark.parametrize(
    "spelled_out",
    [
        "seed=0",
        "model.stage_loss_weights=[1,0.5,0.25]",
        "model.stage_ious=[0.5,0.6,0.7]",
        "model.semantic_fusion=both",
        "model.semantic_loss_weight=0.2",
        "schedule.gamma=0.1",
        "backbone.deformable_stages=[]",
        "data.train.annotations=./annotations/instances_train2017.json",
        "data.train.images=train2017/",
    ],
)
def test_spelled_out_default_is_the_same_run(spelled_out: str) -> None:
    assert same(COCO, [*COCO, spelled_out])


@pytest.mark.parametrize(
    "elsewhere",
    [
        "eval=paper", "eval.limit=5", "eval.nms_iou=0.6", "data.val.limit=3", "data.val.annotations=other.json",
        "data.workers=0", "wandb.project=mine", "name=mine", "sweep=mine", "runs=elsewhere", "device=cpu", "threads=3",
        "log_every=1", "save.keep=9", "schedule.eval_every=1", "force=true", "progress=false",
    ],
)  # fmt: skip
def test_what_does_not_change_the_weights_is_the_same_run(elsewhere: str) -> None:
    assert same(COCO, [*COCO, elsewhere])


@pytest.mark.parametrize(
    "changed",
    [
        "seed=1", "model.mask_flow=false", "model.semantic_loss_weight=0.1", "schedule=20e", "backbone=resnet101",
        "data.root=/datasets/other", "data.train.limit=10", "data.short_side=600", "precision=bf16", "checkpoint=FILE",
        "backbone.weights=FILE", "model.stage_loss_weights=[1,1,1]", "model=cascade_mask_rcnn",
    ],
)  # fmt: skip
def test_what_changes_the_weights_is_another_run(changed: str) -> None:
    argument = changed.replace("checkpoint=", "checkpoint.file=")
    assert not same(COCO, [*COCO, argument])


def test_one_folder_under_many_names_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "coco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"{tmp_path}/coco", f"{tmp_path}/coco/", "coco", "./coco/../coco", "link", f"{tmp_path}//coco", "~/coco"]
    assert same(*(["data=coco", f"data.root='{name}'"] for name in names))
    weights = [f"backbone.weights={name}" for name in ("coco/w.pth", f"{tmp_path}/link/w.pth")]
    assert same(*([*COCO, each] for each in weights))


def test_environment_variables_in_paths_are_not_resolved_for_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["data=coco", "data.root='$SLURM_TMPDIR/coco'"]
    monkeypatch.setenv("SLURM_TMPDIR", "/tmp/1")
    first = signature(composed_config(overrides))
    monkeypatch.setenv("SLURM_TMPDIR", "/tmp/2")
    assert signature(composed_config(overrides)) == first
    monkeypatch.delenv("SLURM_TMPDIR")
    assert signature(composed_config(overrides)) == first


def test_folder_of_generated_data_is_not_part_of_the_run() -> None:
    assert same(["data=shapes"], ["data=shapes", "data.root=/elsewhere"], ["data.shapes.val_images=10"])
    assert not same(["data=shapes"], ["data.shapes.train_images=10"])


def test_added_key_changes_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(to_plain(composed_config(COCO)))
    config = to_plain(composed_config(COCO))
    del config["model"]["roi_aligned"], config["backbone"]["deformable_stages"], config["precision"]
    assert identity(config) == before, "a configuration from before a key was added is that of its default"


def test_every_recorded_configuration_has_the_signature_of_its_run() -> None:
    for row in shipped_rows():
        config = composed_config([*COCO, *shlex.split(row)])
        recorded = yaml.safe_load(yaml.safe_dump(to_plain(config)))
        assert signature(recorded_config(recorded, [])) == signature(config)
        assert identity(recorded) == identity(to_plain(config))


def test_signature_of_the_default_run_stays() -> None:
    # Another value here means that every finished run of every user is started again.
    assert signature(composed_config([])) == "cb629f8b"
    assert signature(composed_config(["data=coco", "data.root=/datasets/coco"])) == "a5e09a41"


def test_keys_below_a_node_affect_what_the_node_affects() -> None:
    assert affected("eval.limit") is affected("data.val.images") is Affects.evaluation
    assert affected("wandb.project") is affected("save.keep") is Affects.nothing
    assert affected("model.rpn.nms_iou") is affected("a.later.key") is Affects.training


def test_every_key_of_the_schema_says_what_it_affects() -> None:
    known = {key: affected(key) for key, _ in schema_fields()}
    outside = sorted(key for key, affects in known.items() if affects is Affects.nothing and "." not in key)
    assert outside == [
        "device", "force", "log_every", "name", "progress", "runs", "save", "sweep", "threads", "wandb",
    ]  # fmt: skip


def test_identity_holds_only_what_differs_from_the_defaults() -> None:
    config = composed_config([*COCO, "seed=3"])
    found: dict[str, Any] = identity(to_plain(config))
    assert found["seed"] == 3
    assert "model.num_stages" not in found and "schedule.gamma" not in found
    assert identity(to_plain(dataclasses.replace(config, seed=0))) == {k: v for k, v in found.items() if k != "seed"}
