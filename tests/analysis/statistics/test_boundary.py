"""Boundary AP: the definition by hand, and pycocotools with overlaps of whole images' boundaries."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.statistics.boundary import boundary, boundary_overlap, boundary_width
from analysis.statistics.matching import match
from analysis.statistics.truth import Truth, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap
from tests.analysis.statistics.detections import (
    REAL,
    Content,
    needs_real_annotations,
    noisy_truth,
    random_truth,
    write,
)

Array = np.ndarray[Any, Any]


def square(x: int, y: int, side: int, size: int = 100) -> dict[str, Any]:
    mask = np.zeros((size, size), dtype=np.uint8, order="F")
    mask[max(y, 0) : y + side, max(x, 0) : x + side] = 1
    return masks.encode(mask)


def plain_boundary(mask: Array) -> Array:
    """Return the pixels of a mask that have a pixel outside of it, or of the image, at most the width away."""
    reach = max(1, round(0.02 * np.hypot(*mask.shape)))
    windows = sliding_window_view(np.pad(mask, reach), (2 * reach + 1, 2 * reach + 1))
    return mask * (1 - windows.min(axis=(2, 3)))


class PlainEvaluation(COCOeval):
    """pycocotools' evaluation with the overlaps of boundary AP."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803
        found = self._dts[imgId, catId]
        objects = self._gts[imgId, catId]
        if not found or not objects:
            return []
        order = np.argsort([-each["score"] for each in found], kind="mergesort")[: self.params.maxDets[-1]]
        shapes = [masks.decode(found[index]["segmentation"]) for index in order]
        overlaps = np.zeros((len(order), len(objects)))
        for column, annotation in enumerate(objects):
            truth = masks.decode(annotation["segmentation"])
            for row, shape in enumerate(shapes):
                common = (shape & truth).sum()
                if annotation["iscrowd"]:
                    overlaps[row, column] = common / max(shape.sum(), 1)
                elif common:
                    one, other = plain_boundary(shape), plain_boundary(truth)
                    of_boundaries = (one & other).sum() / (one | other).sum()
                    overlaps[row, column] = min(common / (shape | truth).sum(), of_boundaries)
        return overlaps


def plain_metrics(content: Content, results: list[Content]) -> Array:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = PlainEvaluation(truth, truth.loadRes(copy.deepcopy(results)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = np.array(evaluation.stats[:6])
    return np.where(found < 0, np.nan, found)


def metrics(results: list[Content], truth: Truth, kind: str = "boundary") -> Array:
    found = unit_ap(match(results, truth, kind))
    return np.array([found.metric(name)[0] for name in METRICS])


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_whole_boundaries(seed: int, tmp_path: Path) -> None:
    content = random_truth(seed, size=120)
    truth = read_truth(write(tmp_path / "truth.json", content))
    results = noisy_truth(truth, seed, spread=0.02)["segm"]
    found = metrics(results, truth)
    np.testing.assert_allclose(found, plain_metrics(content, results), rtol=0, atol=1e-12)
    assert 0.05 < found[0] < metrics(results, truth, "segm")[0]


@needs_real_annotations
def test_numbers_on_real_annotations_are_those_of_the_authors_code() -> None:
    """github.com/bowenc0221/boundary-iou-api at 37d2558 says so of these detections."""
    truth = read_truth(REAL)
    found = metrics(noisy_truth(truth)["segm"], truth)
    expected = [
        0.05724581682293719,
        0.1618000384344439,
        0.022934591214703978,
        0.1238706297027006,
        0.08028973649636147,
        0.007029239946894192,
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_boundary_is_as_wide_as_two_percent_of_the_diagonal() -> None:
    assert [boundary_width(*size) for size in ((480, 640), (100, 100), (10, 10), (3, 3))] == [16, 3, 1, 1]
    ring = masks.decode(boundary(square(30, 30, 40)))
    assert ring.sum() == 40**2 - 34**2 and ring[30, 30] and ring[32, 50] and not ring[33, 50]
    # At the border of the image, the outline goes along the border.
    assert masks.area(boundary(square(0, 0, 40))) == 40**2 - 34**2
    thin = square(10, 10, 5)
    assert masks.decode(boundary(thin)).sum() == 25


def test_overlap_is_the_smaller_one_of_masks_and_boundaries() -> None:
    truth, moved = square(30, 30, 40), square(32, 30, 40)
    ring, moved_ring = masks.decode(boundary(truth)), masks.decode(boundary(moved))
    of_masks = 38 * 40 / (42 * 40)
    of_boundaries = (ring & moved_ring).sum() / (ring | moved_ring).sum()
    assert of_boundaries < of_masks
    assert boundary_overlap([moved], [truth], [0], 0.5)[0, 0] == pytest.approx(of_boundaries)
    assert boundary_overlap([truth], [square(30, 30, 40)], [0], 0.5)[0, 0] == 1
    # A crowd has no outline that a detection should follow.
    assert boundary_overlap([moved], [square(0, 0, 100)], [1], 0.5)[0, 0] == 1
    # Two crowded columns and one pair that no boundary is needed for.
    both = boundary_overlap([moved, square(0, 0, 10)], [truth, square(0, 0, 100)], [0, 1], 0.5)
    np.testing.assert_allclose(both, [[of_boundaries, 1], [0, 1]])


def test_hollow_masks_and_masks_of_many_parts_have_inner_outlines() -> None:
    mask = np.zeros((100, 100), dtype=np.uint8, order="F")
    mask[20:80, 20:80] = 1
    mask[45:55, 45:55] = 0
    mask[90:95, 5:10] = 1
    encoded = masks.encode(mask)
    np.testing.assert_array_equal(masks.decode(boundary(encoded)), plain_boundary(mask))


def test_results_without_detections_have_an_ap_of_zero(tmp_path: Path) -> None:
    content = random_truth(1)
    truth = read_truth(write(tmp_path / "truth.json", json.loads(json.dumps(content))))
    assert metrics([], truth)[0] == 0
