"""Semantic targets: the class of each pixel, read from stuff maps or drawn from the instance masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import cv2
import numpy as np

from htc.config.schema import DataConfig, SemanticSource, SplitConfig
from htc.data.coco.annotations import Annotations
from htc.data.coco.problems import Problem, fault
from htc.data.image_reading import UnreadableImageError, decode, is_cut_off
from htc.data.transforms import resize_labels
from htc.errors import UserError
from htc.structures import IGNORE_LABEL

logger = logging.getLogger(__name__)


class SemanticTargets:
    """Semantic maps of a split, at the size of the network input.

    Stuff maps contain things and stuff and are used unchanged (COCO's stuffthingmaps: 0..182, 255 unlabelled). In a map
    that is drawn from instance masks, a pixel is 0 in the background, 255 in crowd regions, and otherwise the label of
    its object + 1.
    """

    def __init__(self, config: DataConfig, split: SplitConfig, annotations: Annotations) -> None:
        """Choose the source of the maps.

        Raises UserError if the requested source is missing or does not fit `data.semantic_classes`.
        """
        self.annotations = annotations
        self.classes = config.semantic_classes
        folder = None if split.stuff is None else Path(config.root) / split.stuff
        found = folder is not None and folder.is_dir()
        if config.semantic_source is SemanticSource.stuff and not found:
            raise UserError(
                f"data.semantic_source=stuff but the folder of stuff maps {folder} does not exist: "
                "put it there or use data.semantic_source=instances."
            )
        self.folder = folder if found and config.semantic_source is not SemanticSource.instances else None
        """Folder of the stuff maps; None if the maps are drawn from the instance masks."""
        if self.folder is not None:
            names = map(annotations.file_name, range(len(annotations)))
            self.in_subfolder = find_maps_in_subfolders(self.folder, names)
            """[n] bool: the stuff map of an image is in the subfolder that the image's file name has."""
            logger.info("Semantic targets are the stuff maps of %s.", self.folder)
            return
        needed = len(annotations.category_ids) + 1
        if self.classes < needed:
            raise UserError(
                f"data.semantic_classes={self.classes} is too small for targets from {needed - 1} categories of "
                f"instances and the background: set it to {needed} or more."
            )
        logger.warning("Semantic targets are drawn from the instance masks of %s.", annotations.path)

    def of_image(self, image: int, objects: np.ndarray, masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the semantic map of one image.

        Args:
            image: Position of the image in the annotations.
            objects: [k] int64, indices of its annotations that are drawn into the map.
            masks: [k, h, w] uint8, their masks.
            size: (h, w) of the network input.

        Returns:
            [h, w] uint8 class indices; 255 = ignore.
        """
        if self.folder is not None:
            return self._from_stuff_map(self.folder, image, size)
        return self._from_instances(image, objects, masks, size)

    def map_name(self, image: int) -> str:
        """Return the path of an image's stuff map, relative to the folder of the stuff maps."""
        path = PurePath(self.annotations.file_name(image))
        name = f"{path.stem}.png"
        return str(path.parent / name) if self.in_subfolder[image] else name

    def _from_stuff_map(self, folder: Path, image: int, size: tuple[int, int]) -> np.ndarray:
        expected = int(self.annotations.heights[image]), int(self.annotations.widths[image])
        path = folder / self.map_name(image)
        labels = read_stuff_map(path, expected)
        resized = resize_labels(labels, size)
        unknown = (resized >= self.classes) & (resized != IGNORE_LABEL)
        if unknown.any():
            raise UserError(
                f"{path} holds the class {int(resized[unknown].max())} but data.semantic_classes={self.classes}: "
                "set data.semantic_classes above the largest class."
            )
        return resized

    def _from_instances(self, image: int, objects: np.ndarray, masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        annotations = self.annotations
        semantic = np.zeros(size, np.uint8)
        of_image = annotations.of_image(image)
        for annotation in of_image[annotations.crowd[of_image]]:
            np.putmask(semantic, resize_labels(annotations.mask(image, annotation), size) > 0, IGNORE_LABEL)
        # Large objects are drawn first, so that smaller ones in front of them stay visible.
        for k in np.argsort(-annotations.areas[objects], kind="stable"):
            np.putmask(semantic, masks[k] > 0, annotations.labels[objects[k]] + 1)
        return semantic


def find_maps_in_subfolders(folder: Path, images: Iterable[str]) -> np.ndarray:
    """Return [n] bool: whether each image's stuff map is in the subfolder of `folder` that the image's name contains.

    The other stuff maps are expected in `folder` itself. Each subfolder is listed once.
    """
    listed: dict[PurePath, set[str]] = {PurePath(): set()}

    def exists(image: str) -> bool:
        path = PurePath(image)
        if path.parent not in listed:
            try:
                listed[path.parent] = set(os.listdir(folder / path.parent))
            except OSError:
                listed[path.parent] = set()
        return f"{path.stem}.png" in listed[path.parent]

    return np.fromiter(map(exists, images), bool)


def shared_stuff_maps(targets: SemanticTargets, images: Iterable[int]) -> Iterator[Problem]:
    """Yield a fault for each image whose stuff map also belongs to another image file: it cannot be right for both."""
    owners: dict[str, PurePath] = {}
    for image in images:
        name, file = targets.map_name(image), PurePath(targets.annotations.file_name(image))
        owner = owners.setdefault(name, file)
        if owner != file:
            yield fault(
                "shared stuff map",
                f"{targets.annotations.path}: the images {owner} and {file} have one stuff map, {name} in "
                f"{targets.folder}: give each its own, in the subfolder of that name or with another name, or use "
                "data.semantic_source=instances.",
            )


def read_stuff_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a stuff map: the class of each pixel, [h, w] uint8.

    Raises UnreadableImageError if the file is missing, cannot be read, or does not have `size` (height, width).
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read ({error.strerror}): copy the file again.") from error
    labels = decode(data, cv2.IMREAD_UNCHANGED)
    if labels is None or is_cut_off(data):
        raise UnreadableImageError(f"{path} is missing or is not an image: each training image needs its stuff map.")
    if labels.shape != size or labels.dtype != np.uint8:
        raise UnreadableImageError(
            f"{path} has shape {labels.shape} and type {labels.dtype}: a stuff map is an 8-bit grey PNG of its "
            f"image's height and width, here {size}."
        )
    return labels
