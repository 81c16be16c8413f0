"""Predictions over a data set, in COCO's result format, and the speed at which they were made."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from htc.config.schema import EvalConfig
from htc.evaluation.coco_metrics import Result, write_results_file
from htc.ops.paste import encode_masks
from htc.runs.provenance import device_name
from htc.structures import Detections, ImagePrediction, Sample

WARMUP_IMAGES = 5
"""At most so many images, and a tenth of all, are left out of the speed: they pay for caches and kernel choices."""


class Predictor(Protocol):
    """What can be evaluated: a network, or anything else that finds objects."""

    def predict(
        self, images: list[Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        """Find objects in uint8 RGB images [3, h, w]; boxes are in the frame of the original (height, width)."""
        ...


@dataclass
class Conditions:
    """What a speed was measured under; without them it says nothing."""

    device: str
    threads: int
    """CPU threads of PyTorch."""
    batch_size: int
    precision: str
    """fp32, bf16 or fp16."""
    input_size: list[int] | None
    """Median height and width of the network input in pixels, before padding."""


@dataclass
class Speed:
    """Speed of the network with its post-processing; reading, pasting and encoding masks are not in it."""

    fps: float | None
    """Images a second; None where there was no image to measure."""
    images: int
    """Images that were measured."""
    warmup_images: int
    """Images before those, that were not."""
    conditions: Conditions

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Predictions:
    """Detections in COCO's result format, and the images that were looked at (also those without a detection)."""

    bbox: list[Result]
    """image_id, category_id (COCO's own), bbox [x, y, w, h], score."""
    segm: list[Result]
    """image_id, category_id, segmentation, score. A bbox would have its area taken for the mask's."""
    image_ids: list[int]
    speed: Speed

    def of_image(self, image_id: int, category_ids: Sequence[int]) -> ImagePrediction:
        """The detections of one image, with contiguous labels: places in `category_ids`."""
        boxes = [result for result in self.bbox if result["image_id"] == image_id]
        corners = np.array([result["bbox"] for result in boxes], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([category_ids.index(result["category_id"]) for result in boxes], dtype=np.int64)
        scores = np.array([result["score"] for result in boxes], dtype=np.float64)
        masks = [result["segmentation"] for result in self.segm if result["image_id"] == image_id]
        return ImagePrediction(corners, labels, scores, masks)


def predict_dataset(
    model: Predictor,
    loader: Iterable[list[Sample]],
    settings: EvalConfig,
    *,
    category_ids: Sequence[int],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a model over all batches of a loader.

    Args:
        category_ids: COCO's category id of each contiguous class index.
        autocast: makes the context that the model runs in.
        progress: called after every batch with the number of images done so far.

    A `torch.nn.Module` is put into evaluation mode, and back as it was at the end.
    """
    was_training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        with torch.inference_mode():
            return _predict(model, loader, settings, category_ids, device, autocast, progress)
    finally:
        if isinstance(model, torch.nn.Module):
            model.train(was_training)


def merge_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put together what several processes predicted; an image that several of them saw is taken once.

    The speed is the first process's: images a second of one device.
    """
    merged = Predictions([], [], [], parts[0].speed)
    seen: set[int] = set()
    for part in parts:
        new = set(part.image_ids) - seen
        merged.bbox += [result for result in part.bbox if result["image_id"] in new]
        merged.segm += [result for result in part.segm if result["image_id"] in new]
        merged.image_ids += [image_id for image_id in part.image_ids if image_id in new]
        seen |= new
    return merged


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write `bbox.json` and `segm.json` in COCO's result format, each atomically."""
    write_results_file(folder / "bbox.json", predictions.bbox)
    write_results_file(folder / "segm.json", predictions.segm)


def to_results(
    image_id: int, detections: Detections, size: tuple[int, int], category_ids: Sequence[int], mask_threshold: float
) -> tuple[list[Result], list[Result]]:
    """The detections of one image of `size` (height, width) as COCO results of boxes and of masks."""
    height, width = size
    masks = encode_masks(detections.mask_probs, detections.boxes, height, width, mask_threshold)
    boxes = detections.boxes.float().cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]
    bbox: list[Result] = []
    segm: list[Result] = []
    rows = zip(boxes.tolist(), detections.labels.tolist(), detections.scores.float().tolist(), masks, strict=True)
    for box, label, score, mask in rows:
        common = {"image_id": image_id, "category_id": category_ids[label], "score": score}
        bbox.append({**common, "bbox": box})
        segm.append({**common, "segmentation": mask})
    return bbox, segm


def _predict(
    model: Predictor,
    loader: Iterable[list[Sample]],
    settings: EvalConfig,
    category_ids: Sequence[int],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[int], None] | None,
) -> Predictions:
    bbox: list[Result] = []
    segm: list[Result] = []
    image_ids: list[int] = []
    input_sizes: list[tuple[int, int]] = []
    timings: list[tuple[int, float]] = []
    for samples in loader:
        images = [sample.image.to(device, non_blocking=True) for sample in samples]
        sizes = [sample.original_size for sample in samples]
        with autocast():
            _synchronize(device)
            start = time.perf_counter()
            found = model.predict(images, sizes, settings)
            _synchronize(device)
            timings.append((len(samples), time.perf_counter() - start))
        for sample, detections in zip(samples, found, strict=True):
            boxes, masks = to_results(
                sample.image_id, detections, sample.original_size, category_ids, settings.mask_threshold
            )
            bbox += boxes
            segm += masks
            image_ids.append(sample.image_id)
            input_sizes.append((sample.image.shape[-2], sample.image.shape[-1]))
        if progress is not None:
            progress(len(image_ids))
    conditions = Conditions(
        device=device_name(device),
        threads=torch.get_num_threads(),
        batch_size=max((count for count, _ in timings), default=0),
        precision=_precision(device, autocast),
        input_size=[int(statistics.median(side)) for side in zip(*input_sizes, strict=True)] if input_sizes else None,
    )
    return Predictions(bbox, segm, image_ids, measure_speed(timings, conditions))


def measure_speed(timings: Sequence[tuple[int, float]], conditions: Conditions) -> Speed:
    """Images a second from (images, seconds) of each batch, without the batches that warm up."""
    total = sum(count for count, _ in timings)
    to_skip = min(WARMUP_IMAGES, total // 10)
    skipped = batches = 0
    while skipped < to_skip and batches < len(timings) - 1:
        skipped += timings[batches][0]
        batches += 1
    measured = timings[batches:]
    images, seconds = sum(count for count, _ in measured), sum(duration for _, duration in measured)
    return Speed(images / seconds if seconds > 0 else None, images, skipped, conditions)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _precision(device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]) -> str:
    """The precision that the context really gives, not the one that was asked for."""
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    with autocast():
        active = torch.is_autocast_enabled(device.type)
        return names[torch.get_autocast_dtype(device.type)] if active else "fp32"
