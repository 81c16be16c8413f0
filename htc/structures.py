"""What is passed between the data, the network and the evaluation.

Boxes are `xyxy` in pixels; `h, w` is the size of the network input of one image, before padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from htc.ops.paste import RLE

IGNORE_LABEL = 255
"""Semantic label of pixels that no loss counts: unlabelled ones, crowd regions and padding."""


@dataclass
class Targets:
    """Ground truth of one image, in the frame of the network input. Crowd regions are not in it."""

    boxes: Tensor
    """[n, 4] float32, xyxy."""
    labels: Tensor
    """[n] int64, contiguous class indices 0..num_classes-1."""
    masks: Tensor
    """[n, h, w] uint8, 0 or 1."""
    semantic: Tensor | None = None
    """[h, w] uint8, semantic class of each pixel, 255 = ignore; None when the model has no semantic branch."""
    seed: int = 0
    """Seeds the sampling of this image's anchors and RoIs, so that it does not depend on the rest of the batch."""

    def to(self, device: object, non_blocking: bool = False) -> Targets:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        return Targets(move(self.boxes), move(self.labels), move(self.masks), move(self.semantic), self.seed)  # type: ignore[arg-type]

    def pin_memory(self) -> Targets:
        """A copy in page-locked memory, from which GPUs are fed without waiting; loaders call it."""
        semantic = None if self.semantic is None else self.semantic.pin_memory()
        return Targets(self.boxes.pin_memory(), self.labels.pin_memory(), self.masks.pin_memory(), semantic, self.seed)


@dataclass
class Sample:
    """One image as the data set yields it."""

    image: Tensor
    """[3, h, w] uint8, RGB, resized to the network input's size; neither normalised nor padded."""
    image_id: int
    """COCO's image id."""
    original_size: tuple[int, int]
    """(height, width) of the image file as decoded; detections are reported in that frame."""
    targets: Targets | None = None
    """Ground truth; None for evaluation."""
    replaces: tuple[str, ...] = ()
    """What was wrong with the images that could not be read and that this one stands in for, a sentence each."""

    def pin_memory(self) -> Sample:
        """As `Targets.pin_memory`."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return replace(self, image=self.image.pin_memory(), targets=targets)


@dataclass
class Detections:
    """What the network finds in one image, best score first, in the frame of the original image."""

    boxes: Tensor
    """[n, 4] float32, xyxy, clipped to the image."""
    scores: Tensor
    """[n] float32."""
    labels: Tensor
    """[n] int64, contiguous class indices."""
    mask_probs: Tensor
    """[n, m, m] float32 in 0..1: the mask of each detection's own class, in the frame of its box."""

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
