"""Every image and stuff map of a data set, decoded in parallel processes."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import cv2
from PIL import Image

from htc.data.coco.problems import Problem, Severity, fault, refuse
from htc.data.image_reading import PILLOW_ERRORS, UnreadableImageError, decode_image
from htc.data.semantic import read_stuff_map
from htc.errors import UserError
from htc.structures import IGNORE_LABEL

if TYPE_CHECKING:
    from htc.data.dataset import CocoDataset

logger = logging.getLogger(__name__)
EXIF_ORIENTATION = 0x0112
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "MPO": {".jpg", ".jpeg"}, "PNG": {".png"}, "BMP": {".bmp"},
    "WEBP": {".webp"}, "TIFF": {".tif", ".tiff"}, "GIF": {".gif"},
}  # fmt: skip
CHUNK = 16


@dataclass(frozen=True)
class DecodeJob:
    """One image to look at."""

    path: Path
    size: tuple[int, int]
    """(height, width) as annotated."""
    stuff: Path | None = None
    """Its stuff map, where there must be one."""
    classes: int = 255
    """The stuff map's classes lie below."""


@dataclass
class DecodedFile:
    """What was found in an image file."""

    job: DecodeJob
    format: str = "unreadable"
    """As `JPEG RGB`."""
    digest: bytes = b""
    """A hash of the file's content."""
    problems: list[Problem] = field(default_factory=list)


def decode_all(jobs: list[DecodeJob], processes: int) -> Iterator[DecodedFile]:
    """Examine images in `processes` processes, 0 for this one, in order. Raises UserError where one is killed."""
    if processes == 0:
        yield from map(decode_file, jobs)
        return
    with ProcessPoolExecutor(processes, initializer=_start) as pool:
        try:
            yield from pool.map(decode_file, jobs, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise UserError(
                "A process that decodes images was killed, most likely for want of memory: use fewer with processes=N."
            ) from error


def refuse_unreadable_images(dataset: CocoDataset, limit: int | None, processes: int) -> None:
    """Decode the first `limit` images of a data set (None: all) before training; refuse the run where one is broken.

    COCO's 5000 validation images take about a minute of one core.

    Args:
        dataset: The data set that the run is evaluated on.
        limit: Number of images to decode; None for all.
        processes: Number of processes that decode, besides this one; 0 decodes in this process.

    Raises:
        UserError: An image cannot be read; the message names its id and file.
    """
    annotations, images = dataset.annotations, dataset.images[:limit].tolist()
    sizes = zip(annotations.heights[images].tolist(), annotations.widths[images].tolist(), strict=True)
    jobs = [DecodeJob(annotations.image_path(image), size) for image, size in zip(images, sizes, strict=True)]
    logger.debug("reading %d images of %s", len(jobs), annotations.path)
    decoded = decode_all(jobs, processes)
    ids = annotations.image_ids[images].tolist()
    refuse(
        [
            replace(problem, sentence=f"image {image_id} of {annotations.path}: {problem.sentence}")
            for image_id, file in zip(ids, decoded, strict=True)
            for problem in file.problems
            if problem.severity is Severity.fault
        ]
    )


def decode_file(job: DecodeJob) -> DecodedFile:
    """Decode an image and its stuff map."""
    found = DecodedFile(job)
    try:
        data = job.path.read_bytes()
    except OSError as error:
        found.problems.append(fault("unreadable image", f"{job.path} cannot be read ({error.strerror})."))
        return found
    found.digest = hashlib.blake2b(data, digest_size=16).digest()
    printed = _printed.length()
    try:
        decode_image(data, job.path, job.size)
        found.problems += _look(data, found)
    except UnreadableImageError as error:
        found.problems.append(fault("unreadable image", error.sentence))
    else:
        if warning := _printed.since(printed):
            sentence = f"{job.path} is decoded with the warning {warning!r}: look whether all of it is there."
            found.problems.append(Problem(Severity.note, "decoder's warning", sentence))
    if job.stuff is not None:
        found.problems += _stuff_problems(job.stuff, job)
    return found


def _look(data: bytes, found: DecodedFile) -> list[Problem]:
    """What the header says: a wrong suffix and an EXIF turn deserve a look, and both are read right."""
    path = found.job.path
    try:
        with Image.open(io.BytesIO(data)) as image:
            found.format = f"{image.format} {image.mode}"
            kind, orientation = image.format or "", image.getexif().get(EXIF_ORIENTATION, 1)
    except PILLOW_ERRORS:
        # OpenCV reads it, and training asks no one else.
        found.format = "other"
        return []
    problems = []
    if kind in SUFFIXES and path.suffix.lower() not in SUFFIXES[kind]:
        problems.append(Problem(Severity.note, "misleading name", f"{path} is a {kind} file; it is read as such."))
    if orientation not in (0, 1):
        sentence = f"{path} is turned by its EXIF data; it is read in the frame that its annotation's size names."
        problems.append(Problem(Severity.note, "turned by EXIF", sentence))
    return problems


def _stuff_problems(path: Path, job: DecodeJob) -> list[Problem]:
    try:
        labels = read_stuff_map(path, job.size)
    except UnreadableImageError as error:
        return [fault("stuff map", error.sentence)]
    unknown = labels[(labels >= job.classes) & (labels != IGNORE_LABEL)]
    if len(unknown) == 0:
        return []
    return [fault("stuff map", f"{path} holds the class {int(unknown.max())} but data.semantic_classes={job.classes}: "
                  "set data.semantic_classes above the largest class.")]  # fmt: skip


class _Printed:
    """What the decoders' C code prints, which has no other way to speak of a damaged file."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None

    def capture(self) -> None:
        """Send this process's standard error to a file."""
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        os.dup2(self.file.fileno(), 2)

    def length(self) -> int:
        return os.fstat(self.file.fileno()).st_size if self.file is not None else 0

    def since(self, start: int) -> str:
        """The first line after `start`, empty where nothing was printed."""
        if self.file is None or self.length() == start:
            return ""
        lines = os.pread(self.file.fileno(), 4096, start).decode(errors="replace").split("\n")
        return lines[0].strip()


_printed = _Printed()


def _start() -> None:
    cv2.setNumThreads(0)
    _printed.capture()
