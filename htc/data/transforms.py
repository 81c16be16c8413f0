"""Resize and flip images and targets, as MMDetection's `Resize(keep_ratio=True)` and `RandomFlip` do."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from htc.structures import Sample


def network_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return the largest (height, width) with the same aspect ratio within `short_side` by `long_side`, rounded.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        short_side: Upper limit of the shorter side in pixels.
        long_side: Upper limit of the longer side in pixels.
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image [h, w, 3] uint8 to `size` (height, width) with bilinear interpolation."""
    resized: np.ndarray = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map or a binary mask [h, w] uint8 to `size` (height, width) with nearest-neighbour sampling."""
    if labels.flags.f_contiguous:
        # Nearest-neighbour sampling treats both axes alike, so the transpose of a mask in Fortran order is resized,
        # which needs no copy.
        transposed: np.ndarray = cv2.resize(labels.T, size, interpolation=cv2.INTER_NEAREST)
        return transposed.T
    resized: np.ndarray = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    return resized


def resize_boxes(boxes: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Scale boxes [n, 4] xyxy from an image of size `old` (height, width) to size `new` and clip them; float32."""
    scale = np.array([new[1] / old[1], new[0] / old[0]] * 2)
    limit = np.array([new[1], new[0]] * 2)
    scaled: np.ndarray = np.clip(boxes * scale, 0, limit).astype(np.float32)
    return scaled


def flip(sample: Sample) -> Sample:
    """Mirror a sample left to right: image, boxes, masks and semantic map."""
    targets = sample.targets
    if targets is not None:
        boxes = targets.boxes.clone()
        boxes[:, [0, 2]] = sample.image.shape[-1] - boxes[:, [2, 0]]
        semantic = None if targets.semantic is None else targets.semantic.flip(-1)
        targets = dataclasses.replace(targets, boxes=boxes, masks=targets.masks.flip(-1), semantic=semantic)
    return dataclasses.replace(sample, image=sample.image.flip(-1), targets=targets)
