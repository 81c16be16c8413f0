"""Inference over a data set: predictions in COCO's result format, and the speed of the network."""

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
from htc.distributed.devices import device_name
from htc.evaluation.coco_metrics import write_results_file
from htc.evaluation.engines import Result
from htc.ops.paste import encode_masks
from htc.structures import Detections, ImagePrediction, Sample

WARMUP_IMAGES = 5
"""Images at the start that the speed does not count, at most a tenth of all: they fill caches and choose kernels."""


class Predictor(Protocol):
    """A network, or any other object that detects objects in images."""

    def predict(
        self, images: list[Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        """Detect objects in images.

        Args:
            images: one [3, h, w] uint8 RGB tensor per image.
            original_sizes: (height, width) in pixels of each image before it was resized.
            settings: thresholds and limits of the detections.

        Returns:
            Detections of each image, with boxes in the frame of the original size.
        """
        ...


@dataclass
class Conditions:
    """Conditions under which a speed was measured."""

    device: str
    """Name of the GPU or the processor."""
    threads: int
    """CPU threads of PyTorch."""
    batch_size: int
    """Images per batch."""
    precision: str
    """fp32, bf16 or fp16."""
    input_size: list[int] | None
    """Median height and width of the network input in pixels, before padding; None without images."""


@dataclass
class Speed:
    """Speed of the network with its post-processing, without reading images and without pasting and encoding masks."""

    fps: float | None
    """Images per second; None if no image was measured."""
    images: int
    """Number of images that were measured."""
    warmup_images: int
    """Number of images before these, which were not measured."""
    conditions: Conditions

    def to_dict(self) -> dict[str, Any]:
        """Return the speed as results.json holds it."""
        return asdict(self)


@dataclass
class Predictions:
    """Detections in COCO's result format, the images that were processed, and the speed."""

    bbox: list[Result]
    """One dict per detection: image_id, category_id (COCO's own), bbox [x, y, w, h] in pixels, score."""
    segm: list[Result]
    """One dict per detection: image_id, category_id, segmentation (RLE), score.

    There is no bbox, because pycocotools would take the area of the box for the area of the mask.
    """
    image_ids: list[int]
    """All images that were processed, also those without a detection."""
    speed: Speed

    def of_image(self, image_id: int, category_ids: Sequence[int]) -> ImagePrediction:
        """Return the detections of one image, with labels that are indices into `category_ids`."""
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

    A `torch.nn.Module` is put into evaluation mode, and back into its previous mode at the end.

    Args:
        model: the network, on `device`.
        loader: batches of samples.
        settings: thresholds and limits of the detections.
        category_ids: COCO's category id of each contiguous class index.
        device: device that images are moved to.
        autocast: returns the context that the model runs in.
        progress: called after every batch with the number of images processed so far.
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
    """Merge the predictions of several processes; an image that several processes predicted is kept once.

    The speed is that of the first process, so it is that of one device.
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
    """Convert the detections of one image to COCO's result format.

    Args:
        image_id: COCO's image id.
        detections: detections in the frame of the original image.
        size: (height, width) of the original image in pixels.
        category_ids: COCO's category id of each contiguous class index.
        mask_threshold: probability from which on a pixel belongs to a mask.

    Returns:
        The results for boxes and the results for masks, one of each per detection.
    """
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
    """Compute the speed from the (images, seconds) of each batch, without the batches at the start that warm up."""
    total = sum(count for count, _ in timings)
    warmup = min(WARMUP_IMAGES, total // 10)
    skipped_images = skipped_batches = 0
    while skipped_images < warmup and skipped_batches < len(timings) - 1:
        skipped_images += timings[skipped_batches][0]
        skipped_batches += 1
    measured = timings[skipped_batches:]
    images, seconds = sum(count for count, _ in measured), sum(duration for _, duration in measured)
    return Speed(images / seconds if seconds > 0 else None, images, skipped_images, conditions)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _precision(device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]) -> str:
    """Return the precision that is active inside the context, which may differ from the configured one."""
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    with autocast():
        active = torch.is_autocast_enabled(device.type)
        return names[torch.get_autocast_dtype(device.type)] if active else "fp32"
