"""Read and decode image files; refuse damaged ones."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from htc.errors import UserError

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that Pillow raises for damaged files."""


class UnreadableImageError(UserError):
    """An image file cannot be used; `data.on_bad_image` decides whether training stops or skips it."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file to [h, w, 3] uint8 RGB, rotated upright according to its EXIF data.

    All formats of OpenCV are read, regardless of the file's suffix; grey, CMYK, transparent and 16-bit images are
    converted. If `size` (height, width) is given, the image must have this size, in which its annotations were made.
    An image that has this size only without the EXIF rotation is read without it. Raises UnreadableImageError if the
    file is missing, is not an image, is cut off, or has another size.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        fault = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UnreadableImageError(f"{path} {fault}: copy the file again.") from error
    return decode_image(data, path, size)


def decode_image(data: bytes, path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode `data`, the content of the file at `path`, as `read_image` does."""
    if is_cut_off(data):
        raise UnreadableImageError(f"{path} is cut off before the image's end: copy the file again.")
    image = decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise UnreadableImageError(f"{path} is not an image that can be decoded: copy the file again.")
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
    """Decode an image with OpenCV; return None if it is not an image or is larger than OpenCV allows."""
    try:
        image: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image


def is_cut_off(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG file is missing.

    OpenCV fills the missing part with grey and reports no error. A complete file with other data behind the image can
    look cut off, too; therefore Pillow, which is strict, decodes such a file to decide.
    """
    if data.startswith(JPEG_START):
        # A thumbnail in the header has its own end marker, so only one after the start of the last scan counts.
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
    except PILLOW_ERRORS:
        return True
    return False
