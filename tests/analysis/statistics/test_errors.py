"""The error breakdown: hand-made cases, the numbers of tidecv, and weights as copies of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.statistics import weighted_ap
from analysis.statistics.errors import ERRORS, REPAIRS, SPECIAL, FoundErrors, error_ap, find_errors
from analysis.statistics.truth import Truth, read_truth
from tests.analysis.statistics.detections import (
    REAL,
    Content,
    duplicate,
    needs_real_annotations,
    noisy_truth,
    random_results,
    random_truth,
    write,
)
from tests.analysis.statistics.make_tidecv_golden import COCO, GOLDEN, by_tidecv
from tests.analysis.statistics.plain_errors import plain_errors


def errors_of(folder: Path, content: Content, results: list[Content], kind: str) -> FoundErrors:
    return find_errors(results, read_truth(write(folder / "truth.json", content)), kind)


def unit(found: FoundErrors) -> Any:
    return error_ap(found, np.ones((1, len(found.truth.image_ids))))


CASES = [
    pytest.param(case, id=str(case["seed"]), marks=needs_real_annotations if case["seed"] == COCO else ())
    for case in json.loads(GOLDEN.read_text())
]


def inputs(seed: int | str, folder: Path) -> tuple[Content, Truth, dict[str, list[Content]]]:
    """Return annotations and detections of a case of make_tidecv_golden."""
    if seed == COCO:
        truth = read_truth(REAL)
        return json.loads(REAL.read_bytes()), truth, noisy_truth(truth)
    content = random_truth(int(seed))
    results = dict(zip(("bbox", "segm"), random_results(content, int(seed) + 100), strict=True))
    return content, read_truth(write(folder / "truth.json", content)), results


def assert_equal_to_tidecv(found: FoundErrors, expected: dict[str, Any]) -> None:
    assert found.counts() == expected["counts"]
    ap = unit(found)
    assert 100 * ap.metric("")[0] == pytest.approx(expected["AP50"], abs=1e-9)
    for name in ERRORS:
        assert max(100 * ap.cost(name)[0], 0) == pytest.approx(expected["costs"][name], abs=1e-9), name
    for name in SPECIAL:
        assert 100 * ap.cost(name)[0] == pytest.approx(expected["costs"][name], abs=1e-9), name


@pytest.fixture
def recalls_of_tidecv(monkeypatch: pytest.MonkeyPatch) -> None:
    """tidecv reads the precision at i / 100, COCO at linspace(0, 1, 101): they differ in the last bit of some."""
    monkeypatch.setattr(weighted_ap, "RECALLS", np.arange(101) / 100)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("recalls_of_tidecv")
def test_numbers_are_those_of_tidecv(case: dict[str, Any], kind: str, tmp_path: Path) -> None:
    _, truth, results = inputs(case["seed"], tmp_path)
    assert_equal_to_tidecv(find_errors(results[kind], truth, kind), case[kind])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(40, 60))
@pytest.mark.usefixtures("recalls_of_tidecv")
def test_numbers_are_those_of_tidecv_where_it_is_installed(seed: int, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("tidecv", reason="tidecv needs opencv-python, which replaces opencv-python-headless")
    content, truth, results = inputs(seed, tmp_path)
    assert_equal_to_tidecv(find_errors(results[kind], truth, kind), by_tidecv(content, results[kind], kind))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("equal_scores", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_those_of_plain_loops(seed: int, equal_scores: bool, kind: str, tmp_path: Path) -> None:
    content = random_truth(seed, categories=2 + seed % 4)
    results = random_results(content, seed + 200, equal_scores=equal_scores)[kind == "segm"]
    found = errors_of(tmp_path, content, results, kind)
    counts, ap, gains = plain_errors(results, found.truth, kind)
    assert found.counts() == counts
    assert unit(found).metric("")[0] == pytest.approx(ap, abs=1e-12)
    for name, gain in gains.items():
        assert unit(found).cost(name)[0] == pytest.approx(gain, abs=1e-12), name


def test_of_equal_scores_a_repaired_detection_keeps_its_place(tmp_path: Path) -> None:
    """tidecv puts wrong and repaired detections before right ones of the same score, so that a repair may cost AP."""
    boxes = [detection(1, EXACT), detection(1, FAR)]
    ap = unit(errors_of(tmp_path, scene(OBJECT, (1, [40.0, 40.0, 9.0, 9.0])), boxes, "bbox"))
    # The first one is right, and precision is 1 up to a recall of 1/2: 51 of 101 recalls, repaired or not.
    assert ap.metric("")[0] == ap.metric("background")[0] == pytest.approx(51 / 101)
    assert ap.metric("missed")[0] == 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_weights_count_images_as_copies_of_them_do(kind: str, tmp_path: Path) -> None:
    content = random_truth(5)
    results = dict(zip(("bbox", "segm"), random_results(content, 6), strict=True))[kind]
    found = errors_of(tmp_path, content, results, kind)
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=6)
    under_weights = error_ap(found, weights)
    for row, each in enumerate(weights):
        copied = errors_of(tmp_path, *duplicate(content, results, each.tolist()), kind)
        of_copies = unit(copied)
        for repair in REPAIRS:
            assert under_weights.metric(repair)[row] == pytest.approx(of_copies.metric(repair)[0], abs=1e-12), repair


CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


def scene(*boxes: tuple[int, list[float]], crowd: tuple[int, list[float]] | None = None) -> Content:
    """Return one image with objects given by category and box."""
    given = [(category, box, 0) for category, box in boxes] + ([(*crowd, 1)] if crowd else [])
    annotations = []
    for number, (category, box, is_crowd) in enumerate(given, 1):
        right, bottom = box[0] + box[2], box[1] + box[3]
        outline = [[box[0], box[1], right, box[1], right, bottom]]
        common = {"id": number, "image_id": 1, "category_id": category, "area": box[2] * box[3]}
        annotations.append({**common, "bbox": box, "iscrowd": is_crowd, "segmentation": outline})
    images = [{"id": 1, "width": 100, "height": 100}]
    return {"images": images, "categories": CATEGORIES, "annotations": annotations}


def detection(category: int, box: list[float], score: float = 0.5) -> Content:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


OBJECT = (1, [10.0, 10.0, 20.0, 20.0])
EXACT, SHIFTED, FAR = [10.0, 10.0, 20.0, 20.0], [20.0, 10.0, 20.0, 20.0], [70.0, 70.0, 20.0, 20.0]
NEAR = [28.0, 28.0, 20.0, 20.0]
"""IoU with OBJECT: SHIFTED 1/3, NEAR 1/199, FAR 0."""


@pytest.mark.parametrize(
    ("boxes", "error"),
    [
        ([detection(1, SHIFTED)], "localization"),
        ([detection(2, EXACT)], "classification"),
        ([detection(2, SHIFTED)], "both"),
        ([detection(1, EXACT, 0.9), detection(1, EXACT)], "duplicate"),
        ([detection(1, EXACT, 0.9), detection(1, FAR)], "background"),
        ([detection(1, EXACT, 0.9), detection(2, NEAR)], "background"),
        ([detection(1, EXACT, 0.9), detection(1, SHIFTED)], "localization"),
    ],
)
def test_each_error_has_its_name(boxes: list[Content], error: str, tmp_path: Path) -> None:
    found = errors_of(tmp_path, scene(OBJECT, (2, [50.0, 50.0, 5.0, 5.0])), boxes, "bbox")
    counts = found.counts()
    # The small object of the other category is always missed.
    missed = counts.pop("missed")
    assert [name for name, number in counts.items() if number] == [error]
    taken = error in ("localization", "classification") or found.positive.any()
    assert missed == (1 if taken else 2)


def test_a_repair_turns_a_detection_into_a_right_one_and_others_of_the_same_object_are_removed(tmp_path: Path) -> None:
    boxes = [detection(1, SHIFTED, 0.9), detection(1, SHIFTED, 0.8), detection(2, EXACT, 0.7)]
    found = errors_of(tmp_path, scene(OBJECT), boxes, "bbox")
    assert found.repaired.tolist() == [0, -1, -1]
    ap = unit(found)
    assert ap.metric("localization", 0)[0] == 1
    # The wrong category still counts as a detection of a category without objects.
    assert ap.metric("localization")[0] == 0.5
    assert ap.cost("classification", 0)[0] == 0 and ap.metric("missed", 0)[0] == 0


def test_a_detection_of_the_wrong_category_is_repaired_into_the_right_one(tmp_path: Path) -> None:
    ap = unit(errors_of(tmp_path, scene(OBJECT), [detection(2, EXACT)], "bbox"))
    assert ap.metric("")[0] == 0 and ap.metric("classification")[0] == 1


def test_a_detection_in_a_crowd_does_not_count(tmp_path: Path) -> None:
    content = scene(OBJECT, crowd=(1, [60.0, 60.0, 35.0, 35.0]))
    boxes = [detection(1, FAR, 0.9), detection(1, EXACT, 0.5)]
    assert unit(errors_of(tmp_path, content, boxes, "bbox")).metric("")[0] == 1
    assert unit(errors_of(tmp_path, scene(OBJECT), boxes, "bbox")).metric("")[0] == 0.5


def test_only_the_best_hundred_detections_of_an_image_count(tmp_path: Path) -> None:
    boxes = [detection(2, FAR, 0.9 - index / 1000) for index in range(100)] + [detection(1, EXACT, 0.1)]
    assert unit(errors_of(tmp_path, scene(OBJECT), boxes, "bbox")).metric("", 0)[0] == 0
    assert unit(errors_of(tmp_path, scene(OBJECT), boxes[1:], "bbox")).metric("", 0)[0] == 1


def test_no_detections_and_no_objects(tmp_path: Path) -> None:
    found = errors_of(tmp_path, scene(OBJECT), [], "bbox")
    assert found.counts() == {**dict.fromkeys(ERRORS, 0), "missed": 1}
    assert unit(found).metric("")[0] == 0 and np.isnan(unit(found).metric("missed")[0])
    empty = errors_of(tmp_path, scene(), [detection(1, EXACT)], "bbox")
    assert empty.counts()["background"] == 1 and unit(empty).metric("")[0] == 0
