"""Engines of evaluation: equal to the last bit, compared before they are used, and never the end of a run."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.statistics.truth import read_truth
from htc.evaluation import engines
from htc.evaluation.coco_metrics import Metrics, coco_metrics
from htc.evaluation.engines import ARRAYS, COMPARED_IMAGES, HOTCOCO, PYCOCOTOOLS, by_hotcoco, choose_engine, evaluate
from tests.analysis.statistics.detections import noisy_truth, random_results, random_truth
from tests.helpers.coco_tiny import ANNOTATIONS, needs_coco_tiny

pytest.importorskip("hotcoco")
Content = dict[str, Any]
IMAGES = 80


def case(
    seed: int = 0, *, equal_scores: bool = False, images: int = IMAGES
) -> tuple[Content, dict[str, list[Content]]]:
    """Return annotations and detections of boxes and masks."""
    content = random_truth(seed, images=images)
    results = random_results(content, seed + 1, equal_scores=equal_scores)
    return content, dict(zip(("bbox", "segm"), results, strict=True))


def ids_of(content: Content) -> list[int]:
    return [image["id"] for image in content["images"]]


def assert_equal(content: Content, results: list[Content], kind: str, ids: list[int]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        expected, _ = evaluate(copy.deepcopy(content), results, ids, kind, PYCOCOTOOLS)
        quick = by_hotcoco(copy.deepcopy(content), results, ids, kind)
        for name in ARRAYS:
            np.testing.assert_array_equal(quick[name], expected.eval[name])
        found, engine = evaluate(content, results, ids, kind, HOTCOCO)
        found.summarize()
        expected.summarize()
    assert engine == HOTCOCO and found.stats.tolist() == expected.stats.tolist()
    assert found.params.catIds == expected.params.catIds


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("equal_scores", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_of_pycocotools_to_the_last_bit(seed: int, equal_scores: bool, kind: str) -> None:
    content, results = case(seed, equal_scores=equal_scores, images=30)
    assert_equal(content, results[kind], kind, ids_of(content))
    assert_equal(content, results[kind], kind, ids_of(content)[3:17])
    assert_equal(content, [], kind, ids_of(content))


@needs_coco_tiny
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_numbers_on_real_annotations_are_those_of_pycocotools(kind: str) -> None:
    content = json.loads(ANNOTATIONS.read_text())
    assert_equal(content, noisy_truth(read_truth(ANNOTATIONS))[kind], kind, ids_of(content))


def metrics_of(folder: Path, *, images: int = IMAGES, engine: str | None = None) -> Metrics:
    content, results = case(images=images)
    (folder / "truth.json").write_text(json.dumps(content))
    before = json.dumps(results)
    found = coco_metrics(folder / "truth.json", results["bbox"], results["segm"], ids_of(content), engine)
    assert json.dumps(results) == before, "results are written later"
    return found


def test_the_quick_engine_is_used_and_recorded_and_changes_no_metric(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="htc"):
        quick = metrics_of(tmp_path)
    usual = metrics_of(tmp_path, engine=PYCOCOTOOLS)
    assert (quick.engine, usual.engine) == (f"hotcoco {version('hotcoco')}", f"pycocotools {version('pycocotools')}")
    assert (quick.bbox, quick.segm, quick.per_category) == (usual.bbox, usual.segm, usual.per_category)
    assert 0 < (quick.segm["AP"] or 0) < 1
    assert len([record for record in caplog.records if record.message.startswith("Average Precision")]) == 12
    assert capfd.readouterr().out == ""


def test_few_images_are_evaluated_by_pycocotools(tmp_path: Path) -> None:
    assert metrics_of(tmp_path, images=COMPARED_IMAGES).engine.startswith(PYCOCOTOOLS)
    assert metrics_of(tmp_path, images=COMPARED_IMAGES + 1).engine.startswith(HOTCOCO)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_engine_that_differs_in_one_bit_is_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = metrics_of(tmp_path, engine=PYCOCOTOOLS)

    def different(content: Content, results: list[Content], image_ids: list[int], kind: str) -> dict[str, Any]:
        arrays = by_hotcoco(content, results, image_ids, kind)
        if kind == "segm":
            place = np.unravel_index(arrays[name].argmax(), arrays[name].shape)
            arrays[name][place] = np.nextafter(arrays[name][place], 0)
        return arrays

    monkeypatch.setattr(engines, "by_hotcoco", different)
    assert metrics_of(tmp_path) == usual
    assert "is not used: on 50 images, its masks are not those of pycocotools" in caplog.text


class PanicException(BaseException):
    """As a panic of Rust code is seen in Python."""


@pytest.mark.parametrize("failure", [RuntimeError, PanicException])
@pytest.mark.parametrize("images", [COMPARED_IMAGES, IMAGES])
def test_an_engine_that_fails_is_replaced(
    failure: type[BaseException], images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    usual = metrics_of(tmp_path, engine=PYCOCOTOOLS)

    def failing(content: Content, results: list[Content], image_ids: list[int], kind: str) -> dict[str, Any]:
        if len(image_ids) == images:
            raise failure("broken")
        return by_hotcoco(content, results, image_ids, kind)

    monkeypatch.setattr(engines, "by_hotcoco", failing)
    found = metrics_of(tmp_path)
    assert found == usual
    assert "hotcoco fails" in caplog.text and "broken" in caplog.text


def test_a_stop_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*values: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "by_hotcoco", stopped)
    content, results = case()
    with pytest.raises(KeyboardInterrupt):
        choose_engine(content, results, ids_of(content))
