"""Figures of predictions: IoU thresholds, categories, effects, side by side, and failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.factorial import build_factorial
from analysis.figures import (
    Group,
    categories_figure,
    effects_figure,
    failures_figure,
    find_failures,
    image_scores,
    pair_of_runs,
    predictions_figure,
    read_categories,
    read_predictions,
    read_thresholds,
    thresholds_figure,
)
from analysis.figures.comparison import most_different
from analysis.figures.failures import crop
from analysis.figures.pictures import ImageReader
from analysis.figures.predictions import ImageScores, Predictions, objects_on, shapes_on
from analysis.runs import Run, read_runs
from analysis.statistics.matching import match
from analysis.statistics.resampled import Resampler
from analysis.statistics.truth import read_truth
from analysis.study import build_study
from htc.errors import UserError
from tests.analysis.figures.readable import assert_readable, words_of
from tests.analysis.statistics.detections import rle, write


@pytest.fixture
def resampler() -> Resampler:
    return Resampler(200)


@pytest.fixture
def pair(group: Group, resampler: Resampler) -> tuple[Predictions, Predictions]:
    """Predictions of the first and of the last row, with the same seed."""
    base, other = group.variants[0], group.variants[-1]
    runs = pair_of_runs(base, other)
    return read_predictions(base, runs[0], resampler), read_predictions(other, runs[1], resampler)


def test_mean_over_the_thresholds_is_ap(group: Group, resampler: Resampler) -> None:
    values = read_thresholds(group.variants, resampler)
    assert len(values) == 4 * 2 * 10
    for variant in group.variants:
        for run in variant.runs:
            own = values[(values["label"] == variant.label) & (values["seed"] == run.seed)]
            assert own["AP"].mean() == pytest.approx(run.metrics["mask_AP"])
    for width in (1, 2):
        figure = thresholds_figure(values, width)
        assert_readable(figure)
        assert "difference to ‘none’" in words_of(figure)


def test_differences_by_category_are_those_of_the_mean_over_seeds(group: Group, resampler: Resampler) -> None:
    base, other = group.variants[0], group.variants[-1]
    found = read_categories(base, other, resampler)
    # The third category has no objects.
    assert found["category"].tolist() == ["ring", "$a$_b"]
    assert found["difference"].mean() == pytest.approx(other.stats["mask_AP"].mean - base.stats["mask_AP"].mean)
    assert (found["low"] < found["difference"]).all() and (found["difference"] < found["high"]).all()
    turned = read_categories(other, base, resampler)
    np.testing.assert_allclose(turned["low"], -found["high"], atol=1e-9)


@pytest.mark.parametrize("width", [1, 2])
def test_hundreds_of_categories_are_the_largest_differences(width: int) -> None:
    values = np.linspace(-8, 9, 300)
    names = [f"category {index}" for index in range(299)] + ["a very long name of a category " * 3]
    frame = pd.DataFrame({"category": names, "difference": values, "low": values - 1, "high": values + 1})
    figure = categories_figure(frame, "none", "$x$", width)
    assert_readable(figure)
    words = words_of(figure)
    assert "category 0" in words and "a very long name" in words and "category 150 " not in words
    assert f"{40 * width} largest differences of 300" in words
    assert figure.get_figheight() < 10


def test_effects_have_three_panels_with_intervals(pool: Path, resampler: Resampler) -> None:
    study = build_study(read_runs(pool)[0], pool, "ideas", resampler=resampler)
    # Among the rows, the failed run has no part.
    factorial = build_factorial(study)
    assert factorial is not None
    for width in (1, 2):
        figure = effects_figure(factorial, width)
        assert_readable(figure)
        assert [axis.get_title() for axis in figure.axes] == ["main effects", "interactions", "Shapley shares"]
        (effect, *_) = factorial.effects
        ends = {round(float(x), 6) for line in figure.axes[0].lines for x in np.asarray(line.get_xdata())}
        assert {round(effect.comparison.on_images.low, 6), round(effect.comparison.difference, 6)} <= ends


def made(tmp_path: Path, results: list[dict[str, Any]]) -> Predictions:
    """Return predictions on two images: the first has two rings, the second has one ring and a crowd."""
    boxes = [(1, [10.0, 10.0, 40.0, 40.0], 0), (1, [100.0, 100.0, 30.0, 30.0], 0)]
    boxes += [(2, [20.0, 20.0, 60.0, 60.0], 0), (2, [90.0, 90.0, 60.0, 60.0], 1)]
    annotations = [
        {"id": index, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd,
         "segmentation": rle(box, 160)}
        for index, (image, box, crowd) in enumerate(boxes, 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": index, "width": 160, "height": 160, "file_name": f"{index}.png"} for index in (1, 2)],
        "categories": [{"id": 1, "name": "ring"}, {"id": 2, "name": "disc"}],
        "annotations": annotations,
    }
    truth = read_truth(write(tmp_path / "truth.json", content))
    return Predictions(None, Run("run", "done"), match(results, truth, "bbox"), results)  # type: ignore[arg-type]


def result(image: int, box: list[float], score: float, category: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_failures_are_missed_false_and_duplicate(tmp_path: Path) -> None:
    predictions = made(
        tmp_path,
        [
            result(1, [12.0, 10.0, 40.0, 40.0], 0.8),  # a duplicate of the next one
            result(1, [10.0, 10.0, 40.0, 40.0], 0.9),
            result(1, [70.0, 10.0, 20.0, 20.0], 0.7),  # false: nothing is there
            result(1, [100.0, 100.0, 30.0, 30.0], 0.6, category=2),  # false: another category
            result(1, [100.0, 100.0, 30.0, 30.0], 0.4),  # not shown
            result(2, [92.0, 92.0, 50.0, 50.0], 0.95),  # on the crowd
        ],
    )
    found = find_failures(predictions)
    assert {kind: [shape.score for shape in shapes] for kind, shapes in found.items()} == {
        "missed": [None, None], "false": [0.7, 0.6], "duplicate": [0.8],
    }  # fmt: skip
    # The larger one first.
    assert [shape.box for shape in found["missed"]] == [(20.0, 20.0, 80.0, 80.0), (100.0, 100.0, 130.0, 130.0)]
    assert [shape.category for shape in found["false"]] == ["ring", "disc"]
    assert found["duplicate"][0].box == (12.0, 10.0, 52.0, 50.0)
    assert [(shape.kind, shape.score) for shape in shapes_on(predictions, 0)] == [
        ("found", 0.9), ("false", 0.8), ("false", 0.7), ("false", 0.6), ("missed", None),
    ]  # fmt: skip
    assert [shape.kind for shape in shapes_on(predictions, 1)] == ["missed"]
    assert len(objects_on(predictions, 1)) == 1
    # With a lower score, the second ring is found.
    assert len(find_failures(predictions, 0.3)["missed"]) == 1


def test_of_each_image_one_failure_comes_first(tmp_path: Path) -> None:
    boxes = [[70.0, 10.0, 20.0, 20.0], [70.0, 60.0, 20.0, 20.0]]
    predictions = made(tmp_path, [result(1, box, 0.9 - place / 10) for place, box in enumerate(boxes)])
    predictions = made(tmp_path, [*predictions.results, result(2, [0.0, 130.0, 20.0, 20.0], 0.6)])
    assert [(shape.image, shape.score) for shape in find_failures(predictions)["false"]] == [
        (0, 0.9), (1, 0.6), (0, 0.8),
    ]  # fmt: skip


def test_f1_of_an_image_counts_each_threshold(tmp_path: Path) -> None:
    predictions = made(
        tmp_path,
        [
            result(1, [10.0, 10.0, 40.0, 40.0], 0.9),  # at all ten thresholds
            result(1, [100.0, 100.0, 30.0, 20.0], 0.9),  # IoU 0.67: at four
            result(1, [70.0, 10.0, 20.0, 20.0], 0.9),
            result(2, [92.0, 92.0, 50.0, 50.0], 0.95),  # on the crowd: neither found nor false
        ],
    )
    scores = image_scores(predictions.matches)
    assert scores.found.tolist() == pytest.approx([1.4, 0.0])
    assert scores.detections.tolist() == [3, 0] and scores.objects.tolist() == [2, 1]
    assert scores.f1.tolist() == pytest.approx([2 * 1.4 / 5, 0.0])


def test_images_with_the_largest_difference_are_chosen() -> None:
    one = np.ones(4)
    first = ImageScores(np.array([0.5, 1.0, 0.0, 1.0]), one, one)
    second = ImageScores(np.array([0.6, 1.0, 1.0, 0.2]), one, one)
    assert most_different(first, second, 2) == [2, 3]
    assert most_different(first, second, 9) == [2, 3, 0]
    assert most_different(first, first, 3) == []


@pytest.mark.parametrize("width", [1, 2])
def test_pictures_are_readable(pair: tuple[Predictions, Predictions], width: int) -> None:
    figure = predictions_figure(*pair, width, images=3, score=0.3)
    assert_readable(figure)
    words = words_of(figure)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["objects", "none", "both"]
    assert "F1 0." in words and "6 objects" in words and "missed" in words
    figure = failures_figure(pair[1], width, rows=2, score=0.3)
    assert_readable(figure)
    assert "missed:" in words_of(figure) and "ring" in words_of(figure)


def test_the_same_predictions_have_no_difference(pair: tuple[Predictions, Predictions]) -> None:
    with pytest.raises(UserError, match="the same predictions on all images"):
        predictions_figure(pair[0], pair[0])


def test_crops_stay_within_the_image() -> None:
    assert crop((0, 0, 10, 10), 200, 100) == (0, 0, 24, 24)
    assert crop((160, 60, 200, 100), 200, 100) == (112, 12, 200, 100)
    assert crop((0, 0, 200, 100), 200, 100) == (0, 0, 200, 100)


def test_missing_and_damaged_images_are_one_sentence(pair: tuple[Predictions, Predictions], data: Path) -> None:
    reader = ImageReader(pair[0])
    assert reader.read(0).shape == (160, 160, 3)
    path = data / "val2017" / "1.png"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
            reader.read(0)
        Image.new("RGB", (50, 40)).save(path)
        with pytest.raises(UserError, match="50 x 40 pixels, and the annotations say 160 x 160"):
            reader.read(0)
    finally:
        path.write_bytes(content)
    (data / "val2017").rename(data / "elsewhere")
    try:
        with pytest.raises(UserError, match="does not exist: pictures need the images"):
            failures_figure(pair[0])
    finally:
        (data / "elsewhere").rename(data / "val2017")


def test_images_are_turned_upright_as_in_training(tmp_path: Path, pair: tuple[Predictions, Predictions]) -> None:
    reader = ImageReader(pair[0])
    reader.folder = tmp_path
    pixels = np.zeros((160, 160, 3), dtype=np.uint8)
    pixels[:80] = 255
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(tmp_path / reader.names[1], exif=exif)
    assert reader.read(0)[0].mean() == 0 and reader.read(0)[-1].mean() == 255


def test_lists_of_results_in_another_order_give_the_same_shapes(tmp_path: Path) -> None:
    results = json.loads(
        json.dumps([result(1, [10.0 + place, 10.0, 40.0, 40.0], 0.5 + place / 10) for place in range(4)])
    )
    first, second = made(tmp_path, results), made(tmp_path, results[::-1])
    assert shapes_on(first, 0) == shapes_on(second, 0)
