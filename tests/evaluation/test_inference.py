"""Predictions over a data set: COCO's result format, every image once, and the speed with its conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from htc.config.schema import EvalConfig
from htc.evaluation import inference
from htc.evaluation.inference import (
    Conditions,
    Predictions,
    Speed,
    measure_speed,
    merge_predictions,
    predict_dataset,
    to_results,
    write_predictions,
)
from htc.structures import Detections, Sample

CPU = torch.device("cpu")
CONDITIONS = Conditions("a processor", 1, 1, "fp32", [32, 32])


class Clock:
    """Replaces the real clock where a test checks speeds, so that a busy machine does not change them."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


CLOCK = Clock()


class OneBox(torch.nn.Module):
    """Detects one object in every image whose first pixel is not black; the pixel's value is the box's left edge."""

    seconds = 0.0
    """Time that a prediction takes on CLOCK."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.grads: list[bool] = []

    def predict(
        self, images: list[torch.Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        self.modes.append(self.training)
        self.grads.append(torch.is_grad_enabled())
        CLOCK.seconds += self.seconds
        found = []
        for image in images:
            n, x = int(image[0, 0, 0] > 0), float(image[0, 0, 0])
            boxes = torch.tensor([[x, 1.25, x + 10.1, 8.75]])[:n]
            labels, probs = torch.tensor([1])[:n], torch.ones(n, 28, 28)
            found.append(Detections(boxes, torch.tensor([0.123456789])[:n], labels, probs))
        return found


def sample(image_id: int, pixel: int, size: tuple[int, int] = (40, 60)) -> Sample:
    image = torch.zeros(3, size[0] * 2, size[1] * 2, dtype=torch.uint8)
    image[0, 0, 0] = pixel
    return Sample(image, image_id, size)


def predict(model: OneBox, batches: list[list[Sample]]) -> Predictions:
    return predict_dataset(model, batches, EvalConfig(), category_ids=[7, 13], device=CPU)


def test_results_are_in_cocos_format_with_cocos_own_category_ids() -> None:
    predictions = predict(OneBox(), [[sample(42, 5)]])
    (box,), (mask,) = predictions.bbox, predictions.segm
    assert (box["image_id"], box["category_id"]) == (42, 13)
    assert (mask["image_id"], mask["category_id"]) == (42, 13)
    assert set(mask) == {"image_id", "category_id", "score", "segmentation"}
    # Coordinates keep all digits of float32: rounding would change the metrics.
    assert box["bbox"] == [5.0, 1.25, float(np.float32(15.1) - np.float32(5.0)), 7.5]
    assert box["score"] == float(np.float32(0.123456789))
    assert mask["segmentation"]["size"] == [40, 60]
    assert coco_mask.toBbox(mask["segmentation"]).tolist() == [5.0, 1.0, 10.0, 8.0]


def test_images_without_a_detection_are_evaluated() -> None:
    predictions = predict(OneBox(), [[sample(1, 0), sample(2, 3)], [sample(3, 0)]])
    assert predictions.image_ids == [1, 2, 3]
    assert [result["image_id"] for result in predictions.bbox] == [2]


def test_empty_data_set_has_no_predictions_and_no_speed() -> None:
    predictions = predict(OneBox(), [])
    assert predictions.image_ids == [] and predictions.speed.fps is None


def test_model_predicts_in_evaluation_mode_and_returns_to_its_mode() -> None:
    model = OneBox().train()
    predict(model, [[sample(1, 1)]])
    assert model.modes == [False] and model.grads == [False] and model.training
    model.eval()
    predict(model, [[sample(1, 1)]])
    assert not model.training


def test_progress_counts_images() -> None:
    counts: list[int] = []
    batches = [[sample(1, 1), sample(2, 1)], [sample(3, 1)]]
    predict_dataset(OneBox(), batches, EvalConfig(), category_ids=[1, 2], device=CPU, progress=counts.append)
    assert counts == [2, 3]


def test_written_files_contain_the_predictions(tmp_path: Path) -> None:
    predictions = predict(OneBox(), [[sample(1, 3), sample(2, 4)]])
    write_predictions(tmp_path / "predictions", predictions)
    assert json.loads((tmp_path / "predictions" / "bbox.json").read_text()) == predictions.bbox
    assert json.loads((tmp_path / "predictions" / "segm.json").read_text()) == predictions.segm
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == ["bbox.json", "segm.json"]


def test_written_files_are_empty_lists_without_detections(tmp_path: Path) -> None:
    write_predictions(tmp_path, predict(OneBox(), [[sample(1, 0)]]))
    assert json.loads((tmp_path / "bbox.json").read_text()) == []


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    predictions = predict(OneBox(), [[sample(1, 3)]])
    write_predictions(tmp_path, predictions)
    before = (tmp_path / "bbox.json").read_text()
    predictions.bbox[0]["score"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_predictions(tmp_path, predictions)
    assert (tmp_path / "bbox.json").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bbox.json", "segm.json"]


def test_detections_of_an_image_are_returned_for_drawing() -> None:
    predictions = predict(OneBox(), [[sample(1, 3)], [sample(2, 4)]])
    found = predictions.of_image(2, [7, 13])
    assert found.boxes == pytest.approx(np.array([[4.0, 1.25, 14.1, 8.75]]), abs=1e-5)
    assert found.labels.tolist() == [1] and len(found.masks) == 1
    assert len(predictions.of_image(99, [7, 13]).boxes) == 0


def test_image_predicted_by_two_processes_is_merged_once() -> None:
    """A distributed sampler can give an image to two processes at the end of the data."""
    first = predict(OneBox(), [[sample(1, 3)], [sample(2, 4)]])
    second = predict(OneBox(), [[sample(3, 3)], [sample(1, 3)]])
    merged = merge_predictions([first, second])
    assert merged.image_ids == [1, 2, 3]
    assert [result["image_id"] for result in merged.bbox] == [1, 2, 3]
    assert [result["image_id"] for result in merged.segm] == [1, 2, 3]
    assert merged.speed == first.speed


def test_speed_does_not_count_the_reading_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "time", CLOCK)
    model = OneBox()
    model.seconds = 0.02

    def loader() -> Iterator[list[Sample]]:
        for image_id in range(10):
            CLOCK.seconds += 0.03
            yield [sample(image_id, 1)]

    predictions = predict_dataset(model, loader(), EvalConfig(), category_ids=[1, 2], device=CPU)
    # 50 images per second without reading, 20 with it.
    assert predictions.speed.fps == pytest.approx(50)


def test_speed_does_not_count_the_first_images() -> None:
    slow_start = [(1, 10.0)] * 5 + [(1, 0.5)] * 95
    assert measure_speed(slow_start, CONDITIONS) == Speed(2.0, 95, 5, CONDITIONS)
    assert measure_speed([(1, 10.0)] * 2 + [(1, 0.5)] * 18, CONDITIONS) == Speed(2.0, 18, 2, CONDITIONS)
    assert measure_speed([(8, 10.0), (8, 2.0), (4, 1.0)], CONDITIONS) == Speed(4.0, 12, 8, CONDITIONS)
    assert measure_speed([(64, 10.0)], CONDITIONS) == Speed(6.4, 64, 0, CONDITIONS)


def test_speed_includes_its_conditions() -> None:
    batches = [[sample(1, 1, (40, 60)), sample(2, 1, (40, 60))], [sample(3, 1, (80, 60))]]
    conditions = predict(OneBox(), batches).speed.conditions
    assert conditions.batch_size == 2 and conditions.precision == "fp32" and conditions.input_size == [80, 120]
    assert conditions.threads == torch.get_num_threads() and conditions.device

    def half() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    found = predict_dataset(OneBox(), batches, EvalConfig(), category_ids=[1, 2], device=CPU, autocast=half)
    assert found.speed.conditions.precision == "bf16"
    assert json.loads(json.dumps(found.speed.to_dict()))["conditions"]["input_size"] == [80, 120]


def test_detections_in_half_precision_are_written_as_numbers() -> None:
    found = Detections(
        torch.tensor([[1.0, 2.0, 9.0, 10.0]], dtype=torch.bfloat16), torch.tensor([0.5], dtype=torch.bfloat16),
        torch.tensor([0]), torch.ones(1, 28, 28, dtype=torch.bfloat16),
    )  # fmt: skip
    (box,), (mask,) = to_results(1, found, (20, 20), [7], 0.5)
    assert box["bbox"] == [1.0, 2.0, 8.0, 8.0] and box["score"] == 0.5
    assert coco_mask.area(mask["segmentation"]) == 64
