"""The commands end to end, as a user types them, on a tiny data set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.config.compose import composed_config
from htc.trained_model import load_trained_model
from tests.helpers.checkpoints import random_detector, save, their_state
from tests.helpers.command import ROOT, command
from tests.helpers.tiny_run import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, tracked by wandb offline."""
    folder = tmp_path_factory.mktemp("finished")
    result = command("htc.run", *tiny(folder / "runs"), "wandb.mode=offline", "schedule.eval_every=4")
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "runs").glob("[!.]*")
    return run


def test_a_run_leaves_every_file_that_the_readme_names(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "done"
    assert finished.name == f"{record['name']}-{record['signature']}"
    assert {"command", "git", "versions", "host", "devices", "start", "end", "resumes"} <= set(record)
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 2), ("train", 4), ("eval", 4), ("train", 6), ("eval", 6),
    ]  # fmt: skip
    stages = {f"s{t}.loss_{task}" for t in range(3) for task in ("cls", "bbox", "mask")}
    assert set(lines[0]["losses"]) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_semantic_seg"} | stages
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["losses"].values()))
    assert yaml.safe_load((finished / "config.yaml").read_text())["schedule"]["iterations"] == 6
    assert (finished / "checkpoints" / "step_00000006.pt").is_file()
    assert "step 6/6" in (finished / "log.txt").read_text()
    results = json.loads((finished / "evaluations" / "default" / "results.json").read_text())
    assert results["images_evaluated"] == 6
    assert record["training"]["training_seconds"] > 0
    assert record["training"]["iterations"] == results["iterations"] == 6
    assert set(record["data"]) == {"train", "val"} and results["data"] == record["data"]["val"]
    assert results["speed"]["fps"] > 0
    assert len(results["bbox"]) == len(results["segm"]) == 12


def test_results_equal_those_of_pycocotools_on_the_written_predictions(finished: Path) -> None:
    (annotations,) = (finished.parents[1] / "data").glob("*/annotations/instances_val2017.json")
    results = json.loads((finished / "evaluations" / "default" / "results.json").read_text())
    truth = COCO(str(annotations))
    for kind in ("bbox", "segm"):
        found = json.loads((finished / "evaluations" / "default" / f"{kind}.json").read_text())
        if not found:
            assert results[kind]["AP"] == 0
            continue
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        by_hand = [None if value < 0 else pytest.approx(value) for value in evaluation.stats]
        assert list(results[kind].values()) == by_hand


def test_the_same_command_again_says_that_it_is_done_and_changes_nothing(finished: Path) -> None:
    folder = finished.parents[1]
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    result = command("htc.run", *tiny(folder / "runs"), "schedule.eval_every=4")
    assert result.returncode == 0
    assert "done already" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_other_evaluation_settings_evaluate_the_run_again_and_do_not_train_it(finished: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    run = Path(shutil.copytree(finished, runs / finished.name))
    before = {path: path.stat().st_mtime_ns for path in run.glob("evaluations/default/*")}
    arguments = [*tiny(runs, finished.parents[1] / "data"), "schedule.eval_every=4", "wandb.mode=disabled"]
    result = command("htc.run", *arguments, "eval=paper")
    assert result.returncode == 0, result.stderr
    assert "trained already; evaluating as paper" in result.stderr and "step 2/6" not in result.stderr
    results = json.loads((run / "evaluations" / "paper" / "results.json").read_text())
    assert results["settings"]["eval.score_threshold"] == 0.001 and results["iterations"] == 6
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("evaluations/default/*")}
    assert "done already" in command("htc.run", *arguments, "eval=paper").stdout
    assert [path.name for path in runs.glob("[!.]*")] == [finished.name]
    # Without checkpoints it cannot be evaluated again, and it is not trained again as a surprise.
    shutil.rmtree(run / "checkpoints")
    refused = command("htc.run", *arguments, "eval.limit=2")
    assert refused.returncode == 2 and "its checkpoints are deleted" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_run_does_not_continue_on_data_that_have_changed(tmp_path: Path) -> None:
    arguments = [*tiny(tmp_path / "runs"), "wandb.mode=disabled", "save.every=2"]
    assert command("htc.run", *arguments).returncode == 0
    (run,) = (tmp_path / "runs").glob("[!.]*")
    saved = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**saved, "status": "preempted"}))
    (annotations,) = (tmp_path / "data").glob("*/annotations/instances_train2017.json")
    annotations.write_text(annotations.read_text() + "\n")
    refused = command("htc.run", *arguments)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    error = refused.stderr.splitlines()[-1]
    assert "instances_train2017.json and its images have changed since this run started (the annotation file)" in error


def test_force_repeats_a_finished_run_next_to_it_with_the_same_result(finished: Path) -> None:
    result = command("htc.run", *tiny(finished.parent), "force=true")
    assert result.returncode == 0, result.stderr
    repeated = finished.with_name(finished.name + "-r2")
    old, new = (
        json.loads((run / "evaluations" / "default" / "results.json").read_text()) for run in (finished, repeated)
    )
    assert new["segm"] == old["segm"]
    assert new["bbox"] == old["bbox"]


def test_wandb_offline_leaves_its_files_in_the_run_folder(finished: Path) -> None:
    assert list(finished.glob("wandb/offline-run-*/*.wandb"))


def test_evaluate_again_agrees_with_the_run_and_leaves_its_results_alone(finished: Path) -> None:
    before = (finished / "evaluations" / "default" / "results.json").read_bytes()
    result = command("htc.evaluate", f"run={finished}", f"out={finished / 'again'}")
    assert result.returncode == 0, result.stderr
    again = json.loads((finished / "again" / "results.json").read_text())
    assert again["segm"] == json.loads(before)["segm"]
    assert (finished / "evaluations" / "default" / "results.json").read_bytes() == before
    assert "| masks |" in result.stdout


def test_evaluate_takes_other_test_settings(finished: Path) -> None:
    result = command(
        "htc.evaluate", f"run={finished}", f"out={finished / 'paper'}", "eval=paper", "eval.max_detections=3"
    )
    assert result.returncode == 0, result.stderr
    used = json.loads((finished / "paper" / "results.json").read_text())["config"]["eval"]
    assert (used["score_threshold"], used["max_detections"]) == (0.001, 3)
    found = json.loads((finished / "paper" / "bbox.json").read_text())
    images = [detection["image_id"] for detection in found]
    assert max(images.count(image) for image in set(images)) == 3


@pytest.mark.slow
def test_evaluations_of_checkpoints_in_one_folder_are_kept_apart(finished: Path, tmp_path: Path) -> None:
    (source,) = (finished / "checkpoints").glob("step_00000006.pt")
    for name in ("first", "second"):
        shutil.copy(source, tmp_path / f"{name}.pt")
        result = command("htc.evaluate", f"checkpoint={tmp_path / name}.pt", "data.val.limit=2", "threads=1")
        assert result.returncode == 0, result.stderr
        assert ", 1 CPU threads, fp32, batch size 1); predictions" in result.stdout
    folders = sorted(folder.name.split("-")[0] for folder in (tmp_path / "evaluations").iterdir())
    assert folders == ["first", "second"]


def test_evaluation_that_cannot_be_written_is_refused_before_the_work(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = command("htc.evaluate", f"run={finished}", f"out={tmp_path / 'file'}")
    assert result.returncode == 2
    assert f"error: {tmp_path / 'file'}" in result.stderr
    assert "Traceback" not in result.stderr
    assert "masks" not in result.stdout


def test_evaluation_on_categories_of_other_names_is_refused(finished: Path, tmp_path: Path) -> None:
    (annotations,) = (finished.parents[1] / "data").glob("*/annotations/instances_val2017.json")
    content = json.loads(annotations.read_text())
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    swapped = [f"data.root={annotations.parents[1]}", f"data.val.annotations={tmp_path / 'swapped.json'}"]
    result = command("htc.evaluate", f"run={finished}", "data.name=coco", *swapped)
    assert result.returncode == 2
    assert f"has the category {first['name']!r} where the model has {second['name']!r}" in result.stderr


def test_predict_takes_ids_and_images_of_a_coco_file_without_annotations(finished: Path, tmp_path: Path) -> None:
    (annotations,) = (finished.parents[1] / "data").glob("*/annotations/instances_val2017.json")
    listed = json.loads(annotations.read_text())["images"][:2]
    for number, image in enumerate(listed, start=900):
        image["id"] = number
    (tmp_path / "image_info.json").write_text(json.dumps({"images": listed}))
    result = command(
        "htc.predict", f"run={finished}", f"images={annotations.parents[1] / 'val2017'}", f"out={tmp_path / 'out'}",
        f"annotations={tmp_path / 'image_info.json'}", "draw=false", "eval.score_threshold=0.01",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bbox.json", "images.json", "segm.json"]
    found = json.loads((tmp_path / "out" / "segm.json").read_text())
    assert {entry["image_id"] for entry in found} == {900, 901}
    assert set(found[0]) >= {"image_id", "category_id", "score", "segmentation"}


def test_predict_goes_on_after_a_broken_image_and_reports_it(finished: Path, tmp_path: Path) -> None:
    (images,) = (finished.parents[1] / "data").glob("*/val2017")
    pictures = tmp_path / "images"
    pictures.mkdir()
    good = sorted(images.iterdir())[:2]
    for image in good:
        shutil.copy(image, pictures)
    (pictures / "a_broken.png").write_bytes(good[0].read_bytes()[:200])
    result = command("htc.predict", f"run={finished}", f"images={pictures}", f"out={tmp_path / 'out'}")
    assert result.returncode == 2
    assert "1 of 3 images could not be read" in result.stderr
    assert "a_broken.png" in result.stderr
    listed = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [entry["file_name"] for entry in listed] == [image.name for image in good]
    assert (tmp_path / "out" / "segm.json").is_file()


def test_predict_draws_every_image_and_writes_coco_results(finished: Path, tmp_path: Path) -> None:
    (images,) = (finished.parents[1] / "data").glob("*/val2017")
    checkpoint = finished / "checkpoints" / "step_00000006.pt"
    result = command(
        "htc.predict", f"checkpoint={checkpoint}", f"images={images}", f"out={tmp_path}", "eval.score_threshold=0.01"
    )
    assert result.returncode == 0, result.stderr
    for image in images.iterdir():
        drawn = cv2.imread(str(tmp_path / f"{image.stem}.png"))
        original = cv2.imread(str(image))
        assert drawn is not None
        assert original is not None
        assert drawn.shape == original.shape
    masks = json.loads((tmp_path / "segm.json").read_text())
    assert masks
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}
    assert len(json.loads((tmp_path / "images.json").read_text())) == 6


def test_a_sweep_by_hydra_makes_a_run_of_each_row_and_the_table_compares_them(tmp_path: Path) -> None:
    result = command("htc.run", "-m", *tiny(tmp_path / "runs"), "schedule.iterations=2", "model.mask_flow=true,false")
    assert result.returncode == 0, result.stderr
    runs = [path for path in (tmp_path / "runs").glob("[!.]*") if path.is_dir()]
    assert len(runs) == 2
    table = command("analysis/make_tables.py", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'tables'}")
    assert table.returncode == 0, table.stderr
    assert all(run.name in table.stdout for run in runs)
    assert (tmp_path / "tables" / "components.tex").is_file()


def test_a_failed_run_says_why_in_one_sentence_and_in_its_record(tmp_path: Path) -> None:
    result = command("htc.run", *tiny(tmp_path / "runs"), "schedule.learning_rate=1e30", "schedule.clip_norm=null",
                     "schedule.optimizer=sgd", "schedule.warmup_iterations=0")  # fmt: skip
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "not finite at step" in result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert "not finite at step" in record["error"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_deterministic_run_is_the_same_every_time(tmp_path: Path, device: str) -> None:
    states = []
    for name in ("first", "second"):
        folder = tmp_path / name
        arguments = [*tiny(folder / "runs", tmp_path / "data"), "deterministic=true", f"device={device}"]
        result = command("htc.run", *arguments)
        assert result.returncode == 0, result.stderr
        (run,) = (folder / "runs").iterdir()
        states.append(torch.load(run / "checkpoints" / "step_00000006.pt", weights_only=True)["model"])
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_real_coco_trains_and_evaluates(tmp_path: Path) -> None:
    root = Path(os.environ.get("HTC_COCO_TINY", ROOT.parent / "shared" / "data" / "coco_tiny"))
    if not root.is_dir():
        pytest.skip("coco_tiny is not here (HTC_COCO_TINY)")
    result = command("htc.run", "experiment=overfit_coco", f"data.root={root.resolve()}", f"runs={tmp_path}",
                     "schedule.iterations=2", "data.short_side=128", "data.workers=0")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "drawn from the instance masks" in result.stderr
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "evaluations" / "default" / "results.json").read_text())["images_evaluated"] == 8


@pytest.mark.slow
def test_broken_image_in_a_worker_is_one_sentence(tmp_path: Path) -> None:
    first = command("htc.run", *tiny(tmp_path / "runs"), "schedule.iterations=1")
    assert first.returncode == 0, first.stderr
    for image in (tmp_path / "data").glob("*/train2017/*"):
        image.write_bytes(b"not an image")
    result = command("htc.run", *tiny(tmp_path / "runs"), "data.workers=1", "seed=1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.rstrip().rsplit("\n", 1)[-1].startswith("error: ")


@pytest.mark.slow
def test_fine_tuning_starts_from_a_checkpoint_of_mmdetection(tmp_path: Path) -> None:
    overrides = [*tiny(tmp_path / "runs"), "backbone=resnet18", "backbone.width=8", "schedule.learning_rate=0"]
    model = random_detector(composed_config([*overrides, "backbone.weights=null"]), num_classes=10)
    theirs = save(tmp_path / "theirs.pth", {"state_dict": their_state(model)})
    refused = command("htc.run", *overrides, f"checkpoint={theirs}")
    assert refused.returncode == 2
    assert "roi_head.bbox_head.0.fc_cls.bias: [11] instead of [9]" in refused.stderr
    assert refused.stderr.count("Traceback") == 0
    result = command("htc.run", *overrides, f"checkpoint={theirs}", "checkpoint.partial=true")
    assert result.returncode == 0, result.stderr
    assert "MMDetection checkpoint with 10 classes; inferred: model=htc backbone=resnet18" in result.stderr
    assert "was loaded in part" in result.stderr
    runs = [path for path in (tmp_path / "runs").iterdir() if (path / "evaluations").is_dir()]
    trained = load_trained_model({"run": str(runs[0])}, []).model.state_dict()
    for name, value in model.state_dict().items():
        if "logits" not in name:
            assert torch.equal(trained[name], value), name
