"""Evaluation of result files of other systems: pycocotools' numbers, every form of results, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.errors import UserError
from htc.evaluation.result_files import evaluate_result_files
from htc.runs.evaluations import EvaluationFolder
from tests.analysis.statistics.detections import random_results, random_truth
from tests.helpers.command import command

Content = dict[str, Any]
Detections = tuple[list[Content], list[Content]]
SIZE = 160


@pytest.fixture(scope="module")
def truth() -> Content:
    content = random_truth(3)
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    return content


@pytest.fixture(scope="module")
def detections(truth: Content) -> Detections:
    return random_results(truth, 5)


@pytest.fixture
def truth_file(truth: Content, tmp_path: Path) -> Path:
    return write(tmp_path / "annotations.json", truth)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def evaluated(out: Path, truth_file: Path, *files: Path) -> dict[str, Any]:
    return evaluate_result_files(files, truth_file, EvaluationFolder(out))


def by_pycocotools(truth_file: Path, results: list[Content], kind: str) -> list[float]:
    truth = COCO(str(truth_file))
    evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


def test_metrics_are_those_of_pycocotools(truth_file: Path, detections: Detections, tmp_path: Path) -> None:
    boxes, outlines = (
        write(tmp_path / name, each) for name, each in zip(("a.json", "b.json"), detections, strict=True)
    )
    results = evaluated(tmp_path / "out", truth_file, outlines, boxes)
    for kind, each in zip(("bbox", "segm"), detections, strict=True):
        expected = [None if value == -1 else value for value in by_pycocotools(truth_file, each, kind)]
        assert list(results[kind].values()) == expected
        assert json.loads((tmp_path / "out" / f"{kind}.json").read_text()) == each
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert results["images_evaluated"] == 12 and results["speed"]["fps"] is None
    assert results["system"] == tmp_path.name


def test_one_file_with_both_serves_both_and_boxes_of_their_own_come_first(
    truth_file: Path, detections: Detections, tmp_path: Path
) -> None:
    bbox, segm = detections
    both = [{**box, **mask} for box, mask in zip(bbox, segm, strict=True)]
    whole = write(tmp_path / "coco_instances_results.json", both)
    results = evaluated(tmp_path / "one", truth_file, whole)
    assert results["bbox"] == pytest.approx(
        dict(zip(results["bbox"], by_pycocotools(truth_file, bbox, "bbox"), strict=True))
    )
    assert results["segm"]["AP"] == by_pycocotools(truth_file, segm, "segm")[0]
    shifted = write(tmp_path / "boxes.json", [{**box, "bbox": [0, 0, 1, 1]} for box in bbox])
    assert evaluated(tmp_path / "two", truth_file, whole, shifted)["bbox"]["AP"] < results["bbox"]["AP"]


@pytest.mark.parametrize(("index", "kind", "other"), [(0, "bbox", "segm"), (1, "segm", "bbox")])
def test_metrics_of_a_kind_that_is_missing_are_unknown_and_not_zero(
    truth_file: Path,
    detections: Detections,
    tmp_path: Path,
    index: int,
    kind: str,
    other: str,
) -> None:
    results = evaluated(tmp_path / "out", truth_file, write(tmp_path / "a.json", detections[index]))
    assert results[kind]["AP"] > 0 and set(results[other].values()) == {None} and results["per_category"][other] == {}


def polygons(_: Content) -> list[list[float]]:
    return [[10, 10, 60, 10, 60, 50, 10, 50]]


def uncompressed(segmentation: Content) -> Content:
    mask = masks.decode({**segmentation, "counts": segmentation["counts"].encode()}).ravel(order="F")
    changes = np.flatnonzero(np.diff(mask, prepend=0))
    return {"size": segmentation["size"], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {**row, "image_id": str(row["image_id"])},
        lambda row: {**row, "image_id": f"{row['image_id']:012d}"},
        lambda row: {**row, "category_id": float(row["category_id"])},
        lambda row: {**row, "segmentation": uncompressed(row["segmentation"])},
        lambda row: {**row, "id": 5, "area": 3, "iscrowd": 0, "timing": [1, 2]},
    ],
)
def test_other_ways_to_write_the_same_result_are_read(
    truth_file: Path, detections: Detections, tmp_path: Path,
    change: Callable[[Content], Content],
) -> None:  # fmt: skip
    segm = detections[1]
    expected = evaluated(tmp_path / "a", truth_file, write(tmp_path / "a.json", segm))["segm"]
    assert (
        evaluated(tmp_path / "b", truth_file, write(tmp_path / "b.json", list(map(change, segm))))["segm"] == expected
    )


def test_polygons_are_drawn_into_masks(truth_file: Path, detections: Detections, tmp_path: Path) -> None:
    row = {**detections[1][0], "segmentation": polygons({})}
    evaluated(tmp_path / "out", truth_file, write(tmp_path / "a.json", [row]))
    (result,) = json.loads((tmp_path / "out" / "segm.json").read_text())
    assert int(masks.area({**result["segmentation"], "counts": result["segmentation"]["counts"].encode()})) == 50 * 40


BOX = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}
MASK = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"size": [SIZE, SIZE], "counts": [SIZE * SIZE]}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "is not complete JSON"),
        ("[" * 100_000, "is not complete JSON"),
        ({"images": [], "annotations": []}, "is an annotation file; COCO's result format is a list"),
        ({"a": 1}, "is not a list of detections"),
        ([1, 2], "is not a list of detections"),
        ([], "is empty"),
        ([{"image_id": 1, "category_id": 1, "score": 1}], "have neither `bbox` nor `segmentation`"),
        ([{**BOX, "image_id": 99}], "result 0 is of image 99, which .* does not have"),
        ([BOX, {**BOX, "image_id": None}], "result 1 has the image_id None"),
        ([{**BOX, "category_id": 0}], r"of category 0, which .* \(ids 1 to 3\)"),
        ([{**BOX, "category_id": True}], "category_id True"),
        ([{**BOX, "score": None}], "score None"),
        ([{**BOX, "score": float("nan")}], "score nan"),
        ([{**BOX, "score": "0.5"}], "score '0.5'"),
        ([{**BOX, "bbox": [1, 2, 3]}], r"bbox \[1, 2, 3\]; it is x, y, width, height"),
        ([{**BOX, "bbox": [1, 2, float("inf"), 3]}], "x, y, width, height"),
        ([{**BOX, "bbox": [50, 50, -10, -20]}], "is it x1, y1, x2, y2"),
        ([BOX, {key: BOX[key] for key in ("image_id", "category_id", "score")}], "result 1 has the bbox None"),
        ([{**MASK, "segmentation": {"size": [8, 8], "counts": "0"}}], r"size \[8, 8\], and its image is \[160, 160\]"),
        ([{**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": [1, 2]}}], "run lengths that do not cover"),
        ([{**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": "zz"}}], "run lengths that do not cover"),
        ([MASK, {**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": ""}}], "result 1 has run lengths"),
        ([{**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": "ö"}}], "neither run lengths"),
        ([{**MASK, "segmentation": []}], "neither run lengths"),
        ([{**MASK, "segmentation": [[1, 2, 3]]}], "neither run lengths"),
        ([{**MASK, "segmentation": [[1, 2, 3, 4, 5, float("nan")]]}], "neither run lengths"),
    ],
)  # fmt: skip
def test_results_that_do_not_fit_are_refused_in_a_sentence(
    truth_file: Path, tmp_path: Path, content: Any, words: str
) -> None:
    file = tmp_path / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words) as caught:
        evaluated(tmp_path / "out", truth_file, file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "results.json").exists()


def test_two_files_of_one_kind_are_refused(truth_file: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{index}.json", [BOX]) for index in range(2)]
    with pytest.raises(UserError, match=r"0.json and .*1.json both have boxes: give one of them"):
        evaluated(tmp_path / "out", truth_file, *files)


def test_command(truth_file: Path, detections: Detections, tmp_path: Path) -> None:
    boxes, outlines = (
        write(tmp_path / name, each) for name, each in zip(("a.json", "b.json"), detections, strict=True)
    )
    out = tmp_path / "out"
    result = command(
        "htc.evaluate", f"predictions={boxes},{outlines}", f"annotations={truth_file}", f"out={out}", "name=Other"
    )
    assert result.returncode == 0, result.stderr
    recorded = json.loads((out / "results.json").read_text())
    assert f"{100 * recorded['segm']['AP']:.1f}" in result.stdout and recorded["system"] == "Other"
    assert f"12 images; predictions and results are in {out}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predictions=x.json"], "annotations has no value"),
        (["predictions=x.json", "annotations=y.json"], "out has no value"),
        (["predictions=x.json", "annotations=y.json", "out=o", "eval=paper"], "eval has no meaning with predictions="),
        (["predictions=x.json", "annotations=y.json", "out=o", "run=r"], "run has no meaning with predictions="),
        (["run=r", "annotations=y.json"], "annotations has a meaning only with predictions=FILE"),
        (["predictions=x.json", "annotations=y.json", "out=o"], "y.json"),
    ],
)
def test_command_refuses_what_has_no_meaning(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = command("htc.evaluate", *arguments)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1
