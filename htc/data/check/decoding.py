"""Decode the images and stuff maps of a data set in parallel processes and report their problems."""

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
"""Number of images that a process takes at a time."""


@dataclass(frozen=True)
class DecodeJob:
    """One image to decode, with its stuff map."""

    path: Path
    size: tuple[int, int]
    """Annotated (height, width)."""
    stuff: Path | None = None
    """Stuff map of the image; None if it needs none."""
    classes: int = 255
    """Number of classes; those of the stuff map are smaller."""


@dataclass
class DecodedFile:
    """Format, content hash and problems of one image file."""

    job: DecodeJob
    format: str = "unreadable"
    """File format and color mode, such as `JPEG RGB`."""
    digest: bytes = b""
    """Hash of the file's content; empty if the file cannot be read."""
    problems: list[Problem] = field(default_factory=list)


def decode_all(jobs: list[DecodeJob], processes: int) -> Iterator[DecodedFile]:
    """Decode images and yield what was found, in order.

    Args:
        jobs: The images.
        processes: Number of processes that decode; 0 decodes in this process.

    Raises:
        UserError: One of the processes was killed.
    """
    if processes == 0:
        yield from map(decode_file, jobs)
        return
    with ProcessPoolExecutor(processes, initializer=_prepare_process) as pool:
        try:
            yield from pool.map(decode_file, jobs, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise UserError(
                "A process that decodes images was killed, most likely because memory ran out: use fewer with "
                "processes=N."
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
    """Decode an image and its stuff map and return what was found."""
    found = DecodedFile(job)
    try:
        data = job.path.read_bytes()
    except OSError as error:
        found.problems.append(fault("unreadable image", f"{job.path} cannot be read ({error.strerror})."))
        return found
    found.digest = hashlib.blake2b(data, digest_size=16).digest()
    warnings_before = _captured_stderr.length()
    try:
        decode_image(data, job.path, job.size)
        found.problems += _header_problems(data, found)
    except UnreadableImageError as error:
        found.problems.append(fault("unreadable image", error.sentence))
    else:
        if warning := _captured_stderr.first_line_after(warnings_before):
            sentence = f"{job.path} is decoded with the warning {warning!r}: check whether the image is complete."
            found.problems.append(Problem(Severity.note, "decoder's warning", sentence))
    if job.stuff is not None:
        found.problems += _stuff_problems(job.stuff, job)
    return found


def _header_problems(data: bytes, found: DecodedFile) -> list[Problem]:
    """Set the format from the file's header and return notes about a wrong suffix and an EXIF rotation.

    Training reads images with either of them correctly.
    """
    path = found.job.path
    try:
        with Image.open(io.BytesIO(data)) as image:
            found.format = f"{image.format} {image.mode}"
            kind, orientation = image.format or "", image.getexif().get(EXIF_ORIENTATION, 1)
    except PILLOW_ERRORS:
        # Only Pillow cannot read it; training uses OpenCV, which can.
        found.format = "other"
        return []
    problems = []
    if kind in SUFFIXES and path.suffix.lower() not in SUFFIXES[kind]:
        problems.append(Problem(Severity.note, "misleading name", f"{path} is a {kind} file; it is read as such."))
    if orientation not in (0, 1):
        sentence = f"{path} is rotated by its EXIF data; it is read in the orientation that fits its annotated size."
        problems.append(Problem(Severity.note, "rotated by EXIF", sentence))
    return problems


def _stuff_problems(path: Path, job: DecodeJob) -> list[Problem]:
    """Decode the stuff map in `path` and return its problems."""
    try:
        labels = read_stuff_map(path, job.size)
    except UnreadableImageError as error:
        return [fault("stuff map", error.sentence)]
    unknown = labels[(labels >= job.classes) & (labels != IGNORE_LABEL)]
    if len(unknown) == 0:
        return []
    return [fault("stuff map", f"{path} holds the class {int(unknown.max())} but data.semantic_classes={job.classes}: "
                  "set data.semantic_classes above the largest class.")]  # fmt: skip


class _StderrCapture:
    """The standard error of this process, which is the only place where the decoders' C code reports damaged files."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None

    def capture(self) -> None:
        """Redirect this process's standard error to a temporary file."""
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        os.dup2(self.file.fileno(), 2)

    def length(self) -> int:
        """Return the number of captured bytes; 0 if nothing is captured."""
        return os.fstat(self.file.fileno()).st_size if self.file is not None else 0

    def first_line_after(self, start: int) -> str:
        """Return the first line after `start` bytes; empty if nothing was printed since."""
        if self.file is None or self.length() == start:
            return ""
        lines = os.pread(self.file.fileno(), 4096, start).decode(errors="replace").split("\n")
        return lines[0].strip()


_captured_stderr = _StderrCapture()


def _prepare_process() -> None:
    cv2.setNumThreads(0)
    _captured_stderr.capture()
