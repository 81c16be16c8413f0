"""The structures that the data, the network and the evaluation pass to each other.

Boxes are `xyxy` in pixels; `h, w` is the size of the network input of one image, before padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


IGNORE_LABEL = 255
"""Semantic label of pixels that the loss ignores: unlabelled pixels, crowd regions and padding."""


class RLE(TypedDict):
    """A mask in COCO's compressed run-length encoding, ready for JSON."""

    size: list[int]
    """[height, width] of the image in pixels."""
    counts: str
    """Compressed run lengths, as pycocotools encodes them."""


@dataclass
class Targets:
    """Ground truth of one image, without crowd regions, in the coordinates of the network input."""

    boxes: Tensor
    """[n, 4] float32, xyxy."""
    labels: Tensor
    """[n] int64, contiguous class indices 0..num_classes-1."""
    masks: Tensor
    """[n, h, w] uint8, 0 or 1."""
    semantic: Tensor | None = None
    """[h, w] uint8, semantic class of each pixel, 255 = ignore; None when the model has no semantic branch."""
    seed: int = 0
    """Seed for sampling this image's anchors and RoIs, which makes the sample independent of the rest of the batch."""

    def to(self, device: object, non_blocking: bool = False) -> Targets:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        return Targets(move(self.boxes), move(self.labels), move(self.masks), move(self.semantic), self.seed)  # type: ignore[arg-type]

    def pin_memory(self) -> Targets:
        """Return a copy in page-locked memory, which a GPU can read asynchronously; the data loaders call this."""
        semantic = None if self.semantic is None else self.semantic.pin_memory()
        return Targets(self.boxes.pin_memory(), self.labels.pin_memory(), self.masks.pin_memory(), semantic, self.seed)


@dataclass
class Sample:
    """One image of the data set, with its targets in training."""

    image: Tensor
    """[3, h, w] uint8, RGB, resized to the network input's size; neither normalised nor padded."""
    image_id: int
    """COCO's image id."""
    original_size: tuple[int, int]
    """(height, width) of the decoded image file; detections are reported in its coordinates."""
    targets: Targets | None = None
    """Ground truth; None in evaluation."""
    replaces: tuple[str, ...] = ()
    """One sentence for each unreadable image that this image replaces: what is wrong with it."""

    def pin_memory(self) -> Sample:
        """Return a copy in page-locked memory, as `Targets.pin_memory` does."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return replace(self, image=self.image.pin_memory(), targets=targets)


@dataclass
class Detections:
    """Detections of one image, by descending score, in the coordinates of the original image."""

    boxes: Tensor
    """[n, 4] float32, xyxy, clipped to the image."""
    scores: Tensor
    """[n] float32."""
    labels: Tensor
    """[n] int64, contiguous class indices."""
    mask_probs: Tensor
    """[n, m, m] float32 in 0..1: the mask of each detection's predicted class, relative to its box."""

    def __len__(self) -> int:
        return len(self.boxes)

    def cpu(self) -> Detections:
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu(), self.mask_probs.cpu())


class ImagePrediction(NamedTuple):
    """Detections of one image with encoded masks, best score first, for drawing."""

    boxes: np.ndarray
    """[n, 4] float64, xyxy in pixels of the original image."""
    labels: np.ndarray
    """[n] int64, contiguous class indices."""
    scores: np.ndarray
    """[n] float64 in 0..1."""
    masks: list[RLE]
    """n masks of the original image, in COCO's run-length encoding."""
