"""AP under image weights equals pycocotools on images that are really duplicated."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.statistics.matching import Matches, match, match_file
from analysis.statistics.truth import KINDS, read_truth
from analysis.statistics.weighted_ap import METRICS, WeightedAP, unit_ap, weighted_ap
from htc.errors import UserError
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

Array = np.ndarray[Any, Any]


def reference(content: Content, results: list[Content], kind: str) -> tuple[Array, Array]:
    """Return AP to APl of pycocotools, and its precision averaged over recall: [T, K, A]; -1 without objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.array(evaluation.stats[:6])
    return np.where(stats < 0, np.nan, stats), evaluation.eval["precision"][..., -1].mean(axis=1)


def matches_of(folder: Path, content: Content, results: list[Content], kind: str) -> Matches:
    return match(results, read_truth(write(folder / "truth.json", content)), kind)


def figures(found: WeightedAP, row: int = 0) -> Array:
    return np.array([found.metric(name)[row] for name in METRICS])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_unit_weights_give_the_numbers_of_pycocotools(tmp_path: Path, kind: str, seed: int) -> None:
    content = random_truth(seed)
    results = random_results(content, seed + 100, equal_scores=seed % 2 == 1)[KINDS.index(kind)]
    found = unit_ap(matches_of(tmp_path, content, results, kind))
    expected, precision = reference(content, results, kind)
    np.testing.assert_allclose(figures(found), expected, rtol=0, atol=1e-12)
    values = found.values[0].transpose(2, 0, 1)
    np.testing.assert_allclose(np.where(np.isnan(values), -1, values), precision, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_weights_are_duplicated_images(tmp_path: Path, kind: str, seed: int) -> None:
    content = random_truth(seed, images=8)
    results = random_results(content, seed + 50)[KINDS.index(kind)]
    random = np.random.default_rng(seed)
    weights = random.multinomial(8, np.full(8, 1 / 8), size=5)
    found = weighted_ap(matches_of(tmp_path, content, results, kind), weights)
    for row, chosen in enumerate(weights):
        expected, _ = reference(*duplicate(content, results, chosen.tolist()), kind)
        np.testing.assert_allclose(figures(found, row), expected, rtol=0, atol=1e-12)


def test_resamples_are_independent_of_each_other_and_of_their_number(tmp_path: Path) -> None:
    content = random_truth(3)
    matched = matches_of(tmp_path, content, random_results(content, 4)[0], "bbox")
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=300)
    found = weighted_ap(matched, weights)
    for row in (0, 127, 128, 299):
        alone = weighted_ap(matched, weights[row : row + 1])
        np.testing.assert_array_equal(alone.values[0], found.values[row])


def test_an_image_of_weight_zero_is_not_there(tmp_path: Path) -> None:
    content = random_truth(5)
    results = random_results(content, 6)[0]
    weights = np.array([[0] * 6 + [1] * 6])
    found = weighted_ap(matches_of(tmp_path, content, results, "bbox"), weights)
    kept = [result for result in results if result["image_id"] > 6]
    half = {
        **content,
        "images": content["images"][6:],
        "annotations": [each for each in content["annotations"] if each["image_id"] > 6],
    }
    np.testing.assert_allclose(figures(found), reference(half, kept, "bbox")[0], rtol=0, atol=1e-12)
    nothing = weighted_ap(matches_of(tmp_path, content, results, "bbox"), np.zeros((1, 12)))
    assert np.isnan(nothing.metric("AP")).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_detections_are_an_ap_of_zero(tmp_path: Path, kind: str) -> None:
    found = unit_ap(matches_of(tmp_path, random_truth(1), [], kind))
    assert found.metric("AP")[0] == 0


@needs_real_annotations
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_on_real_annotations_are_those_of_pycocotools(kind: str) -> None:
    truth = read_truth(REAL)
    results = noisy_truth(truth)[kind]
    expected, _ = reference(json.loads(REAL.read_bytes()), results, kind)
    np.testing.assert_allclose(figures(unit_ap(match(results, truth, kind))), expected, rtol=0, atol=1e-12)


def test_files_that_are_no_results_or_no_annotations_are_one_sentence(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path / "truth.json", random_truth(0)))
    contents: list[Any] = [{}, [{"image_id": 1}], "x"]
    for wrong in contents:
        with pytest.raises(UserError, match=r"results\.json cannot be read as results"):
            match_file(write(tmp_path / "results.json", wrong), truth, "bbox")
    with pytest.raises(UserError, match="cannot be read as COCO annotations"):
        read_truth(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="has 12 images, and 13 were evaluated"):
        read_truth(tmp_path / "truth.json", 13)
    assert len(read_truth(tmp_path / "truth.json", 5).image_ids) == 5
