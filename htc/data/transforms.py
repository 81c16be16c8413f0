"""Reading, resizing and flipping, as MMDetection's `Resize(keep_ratio=True)` and `RandomFlip` do."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from htc.errors import UserError
from htc.structures import Sample

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged files."""
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


class UnreadableImageError(UserError):
    """An image file that cannot be used; `data.on_bad_image` decides what becomes of it in training."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file to [h, w, 3] uint8 RGB, turned upright as its EXIF data say.

    Any format that OpenCV knows, whatever the name ends in; grey, CMYK, transparent and 16-bit images are converted.
    Where `size` (height, width) is given, the image must have it: annotations were made in that frame. An image that
    has it only without the EXIF turn is read without. Raises UnreadableImageError for a file that is missing, is
    no image, is cut off, or has another size.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        fault = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UnreadableImageError(f"{path} {fault}: copy the file anew.") from error
    return decode_image(data, path, size)


def decode_image(data: bytes, path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """As `read_image`, from what the file at `path` holds."""
    if is_cut_off(data):
        raise UnreadableImageError(f"{path} is cut off before the image's end: copy the file anew.")
    image = decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise UnreadableImageError(f"{path} is not an image that can be decoded: copy the file anew.")
    if size is not None and image.shape[:2] != size:
        if image.shape[1::-1] == size:
            image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None or image.shape[:2] != size:
            raise UnreadableImageError(
                f"{path} is not {size[0]} px high and {size[1]} px wide as its annotation says: "
                "correct `height` and `width` in the annotation file or replace the image."
            )
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def decode(data: bytes, flags: int) -> np.ndarray | None:
    """OpenCV's image, or None for what is none or is larger than OpenCV allows."""
    try:
        image: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG file lacks its end: decoders fill what is missing with grey and say nothing.

    Files with other data behind the image can look like that; they are decoded once more by Pillow, which is strict.
    """
    if data.startswith(JPEG_START):
        # Thumbnails in the header have an end marker of their own, so only the one after the last scan's start counts.
        ended = data.rfind(JPEG_END) > data.rfind(JPEG_SCAN) >= 0
    elif data.startswith(PNG_START):
        ended = data.rfind(PNG_END) >= 0
    else:
        return False
    if ended:
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except DAMAGED:
        return True
    return False


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
        targets = dataclasses.replace(targets, boxes=boxes, masks=targets.masks.flip(-1), semantic=semantic)
    return dataclasses.replace(sample, image=sample.image.flip(-1), targets=targets)
