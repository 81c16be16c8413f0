"""Reading and decoding of image files; damaged ones are refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from htc.errors import UserError

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
