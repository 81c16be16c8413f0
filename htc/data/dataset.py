"""A data set in COCO layout, read as samples at the size of the network input."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from htc.config.paths import expand_path
from htc.config.schema import DataConfig, OnBadImage, SplitConfig
from htc.config.signature import GENERATED_DATA
from htc.data.coco.problems import refuse
from htc.data.coco.reader import load_annotations
from htc.data.image_reading import UnreadableImageError, read_image
from htc.data.semantic import SemanticTargets, shared_stuff_maps
from htc.data.shapes.generate import ensure_shapes
from htc.data.transforms import flip, network_size, resize_boxes, resize_image, resize_labels
from htc.errors import UserError
from htc.structures import Sample, Targets

logger = logging.getLogger(__name__)
MAX_REPLACEMENTS = 10
"""If this many replacements in a row are unreadable too, the data set is broken, not just a few files."""


class SeededIndex(NamedTuple):
    """An index with its own seed, as a sampler yields it, so that workers need no random state."""

    index: int  # type: ignore[assignment]
    """Position in the data set."""
    seed: int
    """Seed for the flip and for the choice of objects in a crowded image."""


class CocoDataset(Dataset[Sample]):
    """Images of one split by ascending image id; for training, with their objects.

    A `SeededIndex` gives a training sample with a random flip and choice of objects. A plain index gives the image
    unflipped, with all objects.
    """

    def __init__(self, config: DataConfig, split: SplitConfig, *, train: bool, semantic: bool) -> None:
        """Read the annotations and check that all files exist.

        Args:
            config: Root folder, image sizes and augmentation.
            split: Images and annotations of the split.
            train: True for training samples with targets; False for evaluation.
            semantic: True if the targets have a semantic map.

        Raises:
            UserError: Files are missing, or contradict the configuration.
        """
        self.config = config
        self.train = train
        root = Path(config.root)
        self.annotation_file = root / split.annotations
        self.annotations = load_annotations(self.annotation_file, root / split.images)
        self.category_ids = self.annotations.category_ids
        self.category_names = self.annotations.category_names
        self.images = self._select(split.limit)
        """[len(self)] int64: positions of the images in `annotations`."""
        self.image_ids: list[int] = self.annotations.image_ids[self.images].tolist()
        self.aspect_ratios = self.annotations.widths[self.images] / self.annotations.heights[self.images]
        """[len(self)] float64: width / height."""
        self.semantic_targets = SemanticTargets(config, split, self.annotations) if train and semantic else None
        self.skip_bad_images = train and config.on_bad_image is OnBadImage.skip
        self._check_files()

    @property
    def semantic_classes(self) -> int:
        return self.config.semantic_classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | SeededIndex) -> Sample:
        if not self.skip_bad_images or not isinstance(key, SeededIndex):
            return self._read(key)
        faults: list[str] = []
        # The replacements depend on the seed alone, so they are the same in a resumed run and in any number of workers.
        replacements = np.random.default_rng([key.seed, 1]).integers(len(self), size=MAX_REPLACEMENTS).tolist()
        for index in (key.index, *replacements):
            try:
                return replace(self._read(SeededIndex(index, key.seed)), replaces=tuple(faults))
            except UnreadableImageError as error:
                faults.append(error.sentence)
        raise UserError(
            f"{MAX_REPLACEMENTS + 1} images in a row cannot be used, the last one because {faults[-1].rstrip('.')}; "
            "python -m htc.data.check lists them all."
        )

    def _read(self, key: int | SeededIndex) -> Sample:
        image = int(self.images[key.index if isinstance(key, SeededIndex) else key])
        try:
            return self._sample(image, key)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"image {self.annotations.image_ids[image]}: {error.sentence}") from error

    def _sample(self, image: int, key: int | SeededIndex) -> Sample:
        annotations = self.annotations
        original_size = int(annotations.heights[image]), int(annotations.widths[image])
        size = network_size(*original_size, self.config.short_side, self.config.long_side)
        pixels = resize_image(read_image(annotations.image_path(image), original_size), size)
        sample = Sample(
            image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            image_id=int(annotations.image_ids[image]),
            original_size=original_size,
        )
        if not self.train:
            return sample
        seed = key.seed if isinstance(key, SeededIndex) else 0
        random = np.random.default_rng(seed) if isinstance(key, SeededIndex) else None
        sample.targets = self._targets(image, size, random, seed)
        return flip(sample) if random is not None and random.random() < self.config.flip else sample

    def _targets(self, image: int, size: tuple[int, int], random: np.random.Generator | None, seed: int) -> Targets:
        """Return the targets of one image.

        Args:
            image: Position of the image in `annotations`.
            size: (height, width) of the network input.
            random: Chooses the objects of a crowded image; None keeps all objects.
            seed: Seed that the targets carry.
        """
        annotations = self.annotations
        of_image = annotations.of_image(image)
        objects = of_image[annotations.usable[of_image]]
        kept = self._limit_objects(objects, random)
        # A semantic map that is drawn from the instance masks also shows the objects that are not kept.
        draws_objects = self.semantic_targets is not None and self.semantic_targets.folder is None
        drawn = objects if draws_objects else kept
        masks = np.empty((len(drawn), *size), np.uint8)
        for mask, annotation in zip(masks, drawn, strict=True):
            mask[:] = resize_labels(annotations.mask(image, annotation), size)
        semantic = None
        if self.semantic_targets is not None:
            semantic = torch.from_numpy(self.semantic_targets.of_image(image, drawn, masks, size))
        original_size = int(annotations.heights[image]), int(annotations.widths[image])
        return Targets(
            boxes=torch.from_numpy(resize_boxes(annotations.boxes[kept], original_size, size)),
            labels=torch.from_numpy(annotations.labels[kept]),
            masks=torch.from_numpy(masks if len(kept) == len(drawn) else masks[np.isin(drawn, kept)]),
            semantic=semantic,
            seed=seed,
        )

    def _limit_objects(self, objects: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
        """Return `objects`, or `data.crowded_limit` of them, chosen by `random` and in the same order."""
        limit = self.config.crowded_limit
        if random is None or limit is None or len(objects) <= limit:
            return objects
        return objects[np.sort(random.choice(len(objects), limit, replace=False))]

    def read_original(self, index: int) -> np.ndarray:
        """Return the image at a position of the data set at its original size, [height, width, 3] uint8, RGB."""
        image = int(self.images[index])
        size = int(self.annotations.heights[image]), int(self.annotations.widths[image])
        return read_image(self.annotations.image_path(image), size)

    def _select(self, limit: int | None) -> np.ndarray:
        """Return the positions in `annotations` of the images of this data set, the first `limit` if given."""
        annotations = self.annotations
        annotated = np.diff(annotations.first) > 0
        usable = annotations.usable_per_image() > 0
        if self.train:
            for flaw, count in annotations.flaw_counts().items():
                logger.info("%s: %s.", annotations.path, flaw.counted(count))
        chosen = np.arange(len(annotations))
        if self.train and self.config.skip_empty:
            chosen = chosen[usable]
        if limit is not None:
            chosen = chosen[annotated[chosen]][:limit]
        if len(chosen) == 0:
            raise UserError(
                f"{annotations.path} leaves no image to use: check its annotations, data.skip_empty and the limit."
            )
        return chosen

    def _check_files(self) -> None:
        """Raise UserError if files are missing, so that the run stops now and not hours into training."""
        annotations = self.annotations
        names = [annotations.file_name(image) for image in self.images.tolist()]
        missing = missing_files(annotations.images_dir, names)
        if missing:
            others = f", nor do {len(missing) - 1} other images of" if len(missing) > 1 else ", an image of"
            raise UserError(
                f"{annotations.images_dir / missing[0]} does not exist{others} {self.annotation_file}: complete the "
                "folder or correct data.root."
            )
        semantic = self.semantic_targets
        if semantic is None or semantic.folder is None:
            return
        stuff_folder = semantic.folder
        missing = missing_files(stuff_folder, [semantic.map_name(image) for image in self.images.tolist()])
        if missing:
            others = f", as are {len(missing) - 1} other stuff maps" if len(missing) > 1 else ", the stuff map of one"
            raise UserError(
                f"{stuff_folder / missing[0]} is missing{others} of the images of {self.annotation_file}: complete the "
                "folder or use data.semantic_source=instances."
            )
        refuse(list(shared_stuff_maps(semantic, self.images.tolist())))


def missing_files(folder: Path, names: list[str]) -> list[str]:
    """Return those of `names`, paths relative to `folder`, that do not exist.

    Each folder is listed once, which is fast for 100,000 files. Raises UserError if a folder cannot be listed.
    """
    present: set[str] = set()
    for parent in {PurePath(name).parent for name in names}:
        try:
            present.update(str(parent / file) for file in os.listdir(folder / parent))
        except OSError as error:
            raise UserError(
                f"{folder / parent} is not a folder that can be listed ({error.strerror}): check data.root and the "
                "data's `images` path."
            ) from error
    return [name for name in names if str(PurePath(name)) not in present]


def build_dataset(config: DataConfig, *, train: bool, semantic: bool) -> CocoDataset:
    """Return the training or validation split; generate the built-in data first if they do not exist yet."""
    config = replace(config, root=expand_path(config.root, "data.root"))
    if config.name == GENERATED_DATA:
        config = ensure_shapes(config)
    return CocoDataset(config, config.train if train else config.val, train=train, semantic=semantic)
