"""Check one split of a data set: annotations, files, images and stuff maps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from htc.config.schema import Config, SplitConfig
from htc.data.check.contact_sheet import contact_sheet, write_sheet
from htc.data.check.decoding import DecodeJob, decode_all
from htc.data.coco.annotations import Annotations, Flaw
from htc.data.coco.problems import Problem, Severity, fault
from htc.data.coco.reader import read_annotations
from htc.data.dataset import missing_files
from htc.data.semantic import SemanticTargets, shared_stuff_maps
from htc.data.splits import shared_files, shared_image
from htc.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class SplitCheck:
    """The check of one split. Creating it checks annotations and file names; `decode` checks the images."""

    config: Config
    split: SplitConfig
    train: bool
    problems: list[Problem] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    digests: dict[bytes, Path] = field(default_factory=dict)
    """Content hash of each decoded image -> its file."""
    missing: set[str] = field(default_factory=set)
    """Paths of images and stuff maps that do not exist."""

    def __post_init__(self) -> None:
        root = Path(self.config.data.root)
        logger.info("Reading %s.", root / self.split.annotations)
        self.annotations: Annotations | None = None
        self.semantic: SemanticTargets | None = None
        try:
            self.annotations, problems = read_annotations(root / self.split.annotations, root / self.split.images)
        except UserError as error:
            self.problems.append(fault("annotation file", error.sentence))
            return
        self.problems += problems
        self.problems += repairs(self.annotations)
        if self.config.model.semantic and self.train:
            try:
                self.semantic = SemanticTargets(self.config.data, self.split, self.annotations)
            except UserError as error:
                self.problems.append(fault("semantic targets", error.sentence))
        self._check_files(self.annotations)

    def _check_files(self, annotations: Annotations) -> None:
        """Find the problems that show without opening an image."""
        if len(annotations) == 0:
            self.problems.append(fault("empty split", f"{annotations.path} lists no image that can be used."))
        elif self.train and not annotations.usable.any():
            self.problems.append(fault("empty split", f"{annotations.path} has no object to learn from."))
        names = [annotations.file_name(image) for image in range(len(annotations))]
        for name, count in Counter(names).items():
            if count > 1:
                sentence = f"{annotations.path}: {count} images have the file_name {name}."
                self.problems.append(Problem(Severity.note, "file listed twice", sentence))
        folders = [(annotations.images_dir, names)]
        if self.semantic is not None and self.semantic.folder is not None:
            maps = [self.semantic.map_name(image) for image in range(len(annotations))]
            folders.append((self.semantic.folder, maps))
            self.problems += shared_stuff_maps(self.semantic, range(len(annotations)))
        for folder, wanted in folders:
            try:
                for name in missing_files(folder, wanted):
                    self.missing.add(str(folder / name))
                    self.problems.append(fault("missing file", f"{folder / name} does not exist."))
            except UserError as error:
                self.problems.append(fault("missing folder", error.sentence))
                self.missing.update(str(folder / name) for name in wanted)

    def stuff_map(self, image: int) -> Path | None:
        """Return the path of an image's stuff map; None if the split uses no stuff maps."""
        if self.semantic is None or self.semantic.folder is None:
            return None
        return self.semantic.folder / self.semantic.map_name(image)

    def decode(self, processes: int, name: str) -> None:
        """Decode every image and stuff map that exists and add their problems.

        Args:
            processes: Number of processes that decode.
            name: Name of the split in the progress bar.
        """
        annotations = self.annotations
        if annotations is None:
            return
        jobs = []
        for image in range(len(annotations)):
            path = annotations.image_path(image)
            stuff = self.stuff_map(image)
            if str(path) in self.missing:
                continue
            size = int(annotations.heights[image]), int(annotations.widths[image])
            if str(stuff) in self.missing:
                stuff = None
            jobs.append(DecodeJob(path, size, stuff, self.config.data.semantic_classes))
        bar = tqdm(decode_all(jobs, processes), total=len(jobs), desc=f"decode {name}", unit="image", disable=None)
        for found in bar:
            self.formats[found.format] += 1
            self.problems += found.problems
            first = self.digests.setdefault(found.digest, found.job.path) if found.digest else found.job.path
            if first != found.job.path:
                sentence = f"{found.job.path} has the same content as {first}."
                self.problems.append(Problem(Severity.note, "same image twice", sentence))

    def draw(self, path: Path, samples: int) -> Path | None:
        """Write a contact sheet of `samples` images and return `path`; return None if there is nothing to draw."""
        assert self.annotations is not None
        sheet = contact_sheet(self.annotations, self.semantic, samples, self.config.seed)
        if sheet is None:
            return None
        write_sheet(path, sheet)
        return path

    def shared_with(self, other: SplitCheck) -> list[Problem]:
        """Return the images that both splits use: the same files or, if the images were decoded, the same content."""
        assert self.annotations is not None
        assert other.annotations is not None
        ours, theirs = self.annotations, other.annotations
        if ours.path.resolve() == theirs.path.resolve() or not (self.digests and other.digests):
            return shared_files(ours, theirs, list(range(len(ours))), list(range(len(theirs))))
        return [
            shared_image(self.digests[digest], path, ours, theirs)
            for digest, path in other.digests.items()
            if digest in self.digests
        ]


def repairs(annotations: Annotations) -> Iterator[Problem]:
    """Yield a problem for each annotation that training drops or clips."""
    for flaw in Flaw:
        for index in np.flatnonzero(annotations.flaws & flaw).tolist():
            sentence = f"{annotations.path}: annotation {annotations.ids[index]} {flaw.sentence}."
            yield Problem(Severity.repair, flaw.kind, sentence)
