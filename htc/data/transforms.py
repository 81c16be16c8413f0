"""Reading, resizing and flipping, as MMDetection's `Resize(keep_ratio=True)` and `RandomFlip` do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from htc.errors import UserError
from htc.structures import Sample, Targets


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file to [h, w, 3] uint8 RGB, turned upright as its EXIF data say.

    Where `size` (height, width) is given, the image must have it: annotations were made in that frame. An image that
    has it only without the EXIF turn is read without. Raises UserError for a file that is missing, is no image, or has
    another size.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        fault = "is not an image that can be decoded" if path.is_file() else "does not exist"
        raise UserError(f"{path} {fault}: copy the file anew.")
    if size is not None and image.shape[:2] != size:
        if image.shape[1::-1] == size:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None or image.shape[:2] != size:
            raise UserError(
                f"{path} is not {size[0]} px high and {size[1]} px wide as its annotation says: "
                "correct `height` and `width` in the annotation file or replace the image."
            )
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def network_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The largest (height, width) of the same shape within `short_side` by `long_side` pixels, rounded."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [h, w, 3] uint8 to `size` (height, width), bilinearly."""
    resized: np.ndarray = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [h, w] uint8 of labels or of 0 and 1 to `size` (height, width), to the nearest pixel."""
    if labels.flags.f_contiguous:
        # Nearest sampling treats the axes alike, so a mask in Fortran order is resized as it lies, without a copy.
        turned: np.ndarray = cv2.resize(labels.T, size, interpolation=cv2.INTER_NEAREST)
        return turned.T
    resized: np.ndarray = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    return resized


def resize_boxes(boxes: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Scale boxes [n, 4] xyxy from an image of size `old` (height, width) to `new`, clipped to it; float32."""
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
        targets = Targets(boxes, targets.labels, targets.masks.flip(-1), semantic)
    return Sample(sample.image.flip(-1), sample.image_id, sample.original_size, targets)
