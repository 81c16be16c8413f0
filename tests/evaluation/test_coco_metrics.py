"""COCO metrics: equal to pycocotools on the written files, on real annotations."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.config.schema import EvalConfig
from htc.errors import UserError
from htc.evaluation.coco_metrics import METRIC_NAMES, Metrics, coco_metrics
from htc.evaluation.inference import Predictions, predict_dataset, write_predictions
from htc.ops.paste import encode_region
from tests.helpers.coco_tiny import ANNOTATIONS, PerturbedTruth, category_ids, needs_coco_tiny


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    detector = PerturbedTruth()
    batches = [[sample] for sample in detector.samples()]
    return predict_dataset(detector, batches, EvalConfig(), category_ids=category_ids(), device=torch.device("cpu"))


def metrics_of(predictions: Predictions, image_ids: list[int] | None = None) -> Metrics:
    """Evaluate the predictions on some images, by default on all predicted images."""
    ids = predictions.image_ids if image_ids is None else image_ids
    return coco_metrics(ANNOTATIONS, predictions.bbox, predictions.segm, ids)


def pycocotools_metrics(
    file: Path, kind: str, image_ids: list[int] | None = None, category: int | None = None
) -> list[float]:
    """Evaluate a results file by pycocotools directly, as COCO's website describes."""
    truth = COCO(str(ANNOTATIONS))
    evaluation = COCOeval(truth, truth.loadRes(str(file)), kind)
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    if category is not None:
        evaluation.params.catIds = [category]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats]


@needs_coco_tiny
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("part", [None, 25])
def test_metrics_equal_pycocotools_on_the_written_files(
    predictions: Predictions, tmp_path: Path, kind: str, part: int | None
) -> None:
    metrics = metrics_of(predictions, predictions.image_ids[:part])
    write_predictions(tmp_path, predictions)
    expected = pycocotools_metrics(tmp_path / f"{kind}.json", kind, predictions.image_ids[:part])
    ours = metrics.bbox if kind == "bbox" else metrics.segm
    assert list(ours) == list(METRIC_NAMES)
    assert [ours[name] for name in METRIC_NAMES] == expected
    assert 0.2 < expected[0] < 0.9


@needs_coco_tiny
def test_category_ap_equals_pycocotools_on_that_category_alone(predictions: Predictions, tmp_path: Path) -> None:
    metrics = metrics_of(predictions)
    write_predictions(tmp_path, predictions)
    for kind in ("bbox", "segm"):
        file = tmp_path / f"{kind}.json"
        assert metrics.per_category[kind]["person"] == pycocotools_metrics(file, kind, category=1)[0]
        # COCO's ids have gaps: the last one, 90, is the 80th category.
        assert metrics.per_category[kind]["toothbrush"] == pytest.approx(
            _or_none(pycocotools_metrics(file, kind, category=90)[0])
        )
        assert len(metrics.per_category[kind]) == 80


def _or_none(value: float) -> float | None:
    return value if value > -1 else None


@needs_coco_tiny
def test_evaluation_does_not_change_the_predictions(predictions: Predictions) -> None:
    before = json.dumps([predictions.bbox, predictions.segm])
    metrics_of(predictions)
    assert json.dumps([predictions.bbox, predictions.segm]) == before


@needs_coco_tiny
def test_metrics_without_detections_are_zero(predictions: Predictions) -> None:
    metrics = coco_metrics(ANNOTATIONS, [], [], predictions.image_ids)
    assert metrics.bbox["AP"] == 0.0 and metrics.segm["AR100"] == 0.0
    assert metrics.per_category["segm"]["person"] == 0.0


@needs_coco_tiny
def test_ap_of_a_category_without_objects_is_none(predictions: Predictions) -> None:
    truth = COCO(str(ANNOTATIONS))
    with_elephant = set(truth.getImgIds(catIds=truth.getCatIds(catNms=["elephant"])))
    without = [image_id for image_id in predictions.image_ids if image_id not in with_elephant]
    assert metrics_of(predictions, without).per_category["bbox"]["elephant"] is None


@needs_coco_tiny
def test_metrics_without_images_are_none(predictions: Predictions) -> None:
    metrics = coco_metrics(ANNOTATIONS, [], [], [])
    assert set(metrics.bbox.values()) == {None}


@needs_coco_tiny
def test_output_of_pycocotools_goes_to_the_log(
    predictions: Predictions, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="htc"):
        metrics_of(predictions)
    assert capfd.readouterr().out == ""
    table = [record.message for record in caplog.records if record.message.startswith("Average Precision")]
    assert len(table) == 12


def test_size_of_objects_is_the_area_of_their_mask(tmp_path: Path) -> None:
    """A thin object in a large box is small for the AP of masks, because its annotated area is."""
    mask = encode_region(np.eye(200, dtype=bool), 0, 0, 200, 200)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 200, "bbox": [0, 0, 200, 200]}
    file = tmp_path / "annotations.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "height": 200, "width": 200}],
                "categories": [{"id": 1, "name": "line"}],
                "annotations": [{**annotation, "segmentation": mask}],
            }
        )
    )
    common = {"image_id": 1, "category_id": 1, "score": 0.9}
    metrics = coco_metrics(
        file, [{**common, "bbox": [0.0, 0.0, 200.0, 200.0]}], [{**common, "segmentation": mask}], [1]
    )
    assert metrics.segm["APs"] == pytest.approx(1.0) and metrics.segm["APl"] is None


def test_categories_with_the_same_name_are_distinguished_by_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    categories = [{"id": 1, "name": "part"}, {"id": 5, "name": "part"}]
    file.write_text(json.dumps({"images": [], "categories": categories, "annotations": []}))
    assert set(coco_metrics(file, [], [], []).per_category["bbox"]) == {"part (1)", "part (5)"}


def test_missing_annotation_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances_none\.json does not exist"):
        coco_metrics(tmp_path / "instances_none.json", [], [], [])
