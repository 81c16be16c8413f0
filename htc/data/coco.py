"""A data set in COCO layout, as samples of the network input's size."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from htc.config import DataConfig, SplitConfig
from htc.data.annotations import Annotations
from htc.data.semantic import SemanticTargets
from htc.data.shapes import ensure_shapes
from htc.data.transforms import (
    flip,
    network_size,
    read_image,
    resize_boxes,
    resize_image,
    resize_labels,
)
from htc.errors import UserError
from htc.structures import Sample, Targets

logger = logging.getLogger(__name__)


class Draw(NamedTuple):
    """What a sampler yields: randomness travels with the index, so workers hold no random state."""

    index: int  # type: ignore[assignment]
    """Position in the data set."""
    seed: int
    """Decides the flip and which objects of a crowded image are kept."""


class CocoDataset(Dataset[Sample]):
    """Images of one split with, for training, their objects; order is by ascending image id.

    A `Draw` asks for a training sample with its random flip and choice of objects; a plain index for the image as it
    is, with all objects. Raises UserError where files are missing or are not what the configuration says.
    """

    def __init__(self, config: DataConfig, split: SplitConfig, *, train: bool, semantic: bool) -> None:
        self.config = config
        self.train = train
        root = Path(config.root)
        self.annotation_file = root / split.annotations
        self.annotations = Annotations.load(self.annotation_file, root / split.images)
        self.category_ids = self.annotations.category_ids
        self.category_names = self.annotations.category_names
        self.images = self._select(split.limit)
        """[len(self)] int64, positions in `annotations`."""
        self.image_ids: list[int] = self.annotations.image_ids[self.images].tolist()
        self.aspect_ratios = self.annotations.widths[self.images] / self.annotations.heights[self.images]
        """[len(self)] float64, width / height."""
        self._check_files()
        self.semantic_targets = SemanticTargets(config, split, self.annotations) if train and semantic else None

    @property
    def semantic_classes(self) -> int:
        return self.config.semantic_classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | Draw) -> Sample:
        image = int(self.images[key.index if isinstance(key, Draw) else key])
        annotations = self.annotations
        original_size = int(annotations.heights[image]), int(annotations.widths[image])
        size = network_size(*original_size, self.config.short_side, self.config.long_side)
        pixels = resize_image(read_image(self._image_path(image), original_size), size)
        sample = Sample(
            image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            image_id=int(annotations.image_ids[image]),
            original_size=original_size,
        )
        if not self.train:
            return sample
        seed = key.seed if isinstance(key, Draw) else 0
        random = np.random.default_rng(seed) if isinstance(key, Draw) else None
        sample.targets = self._targets(image, size, random, seed)
        return flip(sample) if random is not None and random.random() < self.config.flip else sample

    def _targets(self, image: int, size: tuple[int, int], random: np.random.Generator | None, seed: int) -> Targets:
        """All objects of an image, or `crowded_limit` of them where `random` is given, at `size` (height, width)."""
        annotations = self.annotations
        of_image = annotations.of_image(image)
        objects = of_image[annotations.usable[of_image]]
        masks = np.empty((len(objects), *size), np.uint8)
        for mask, annotation in zip(masks, objects, strict=True):
            mask[:] = resize_labels(annotations.mask(image, annotation), size)
        semantic = None
        if self.semantic_targets is not None:
            # Before objects are left out: one that is not learnt from is still not background.
            semantic = torch.from_numpy(self.semantic_targets.of_image(image, objects, masks, size))
        limit = self.config.crowded_limit
        if random is not None and limit is not None and len(objects) > limit:
            kept = np.sort(random.choice(len(objects), limit, replace=False))
            objects, masks = objects[kept], masks[kept]
        old = int(annotations.heights[image]), int(annotations.widths[image])
        return Targets(
            boxes=torch.from_numpy(resize_boxes(annotations.boxes[objects], old, size)),
            labels=torch.from_numpy(annotations.labels[objects]),
            masks=torch.from_numpy(masks),
            semantic=semantic,
            seed=seed,
        )

    def read_original(self, index: int) -> np.ndarray:
        """The image at a position of the data set as it is in its file -> [height, width, 3] uint8, RGB."""
        image = int(self.images[index])
        size = int(self.annotations.heights[image]), int(self.annotations.widths[image])
        return read_image(self._image_path(image), size)

    def _select(self, limit: int | None) -> np.ndarray:
        """Positions in `annotations` of the images that belong to this data set."""
        annotations = self.annotations
        annotated = np.diff(annotations.first) > 0
        usable = annotations.usable_per_image() > 0
        if self.train:
            dropped = int((~annotations.usable & ~annotations.crowd).sum())
            if dropped:
                logger.info(
                    "%s: %d annotations have no area, no outline or lie outside their image; not used in training.",
                    annotations.path, dropped,
                )  # fmt: skip
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

    def _image_path(self, image: int) -> Path:
        return self.annotations.images_dir / str(self.annotations.file_names[image])

    def _check_files(self) -> None:
        """Refuse a data set with missing image files now, not hours into training. Lists each folder once."""
        names = self.annotations.file_names[self.images].tolist()
        present: set[str] = set()
        for parent in {PurePath(name).parent for name in names}:
            folder = self.annotations.images_dir / parent
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder: check data.root and the data's `images` path.")
            present.update(str(parent / file) for file in os.listdir(folder))
        missing = [name for name in names if str(PurePath(name)) not in present]
        if missing:
            raise UserError(
                f"{self.annotations.images_dir / missing[0]} does not exist, nor do {len(missing) - 1} other images of "
                f"{self.annotation_file}: complete the folder or correct data.root."
            )


def build_dataset(config: DataConfig, *, train: bool, semantic: bool) -> CocoDataset:
    """The training or validation split; the built-in data are generated first where they are not there yet."""
    if config.name == "shapes":
        config = ensure_shapes(config)
    return CocoDataset(config, config.train if train else config.val, train=train, semantic=semantic)
