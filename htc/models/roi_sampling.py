"""The RoIs that a stage of the cascade is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htc.ops.matching import match_boxes, sample_matches
from htc.structures import Targets


@dataclass
class RoISamples:
    """Sampled RoIs of a batch, image after image, in each image the positives first."""

    rois: Tensor
    """[k, 5] float32: image index, then xyxy."""
    labels: Tensor
    """[k] int64; `num_classes` for background."""
    objects: Tensor
    """[k, 4] float32: the matched object's box; zeros for background."""
    object_index: Tensor
    """[k] int64: the matched object within its image; 0 for background."""
    appended: Tensor
    """[k] bool: a ground-truth box that was added to the proposals."""
    num_classes: int

    @property
    def positives(self) -> Tensor:
        """Indices of the RoIs that match an object."""
        return torch.nonzero(self.labels < self.num_classes).squeeze(1)


@dataclass(frozen=True)
class RoISampler:
    """Matches proposals to objects, then samples (Fast R-CNN section 2.3), each image by its own seed."""

    number: int
    positive_fraction: float
    iou: float
    low_quality_matches: bool
    num_classes: int

    def __call__(self, proposals: list[Tensor], targets: list[Targets], round: int) -> RoISamples:
        """Proposals [n, 4] of each image, its ground truth appended -> samples.

        `round` tells apart the several samplings of one step, which must not draw the same numbers.
        """
        parts = [
            self._sample_image(i, boxes, target, round)
            for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True))
        ]
        rois, labels, objects, indices, appended = (torch.cat(column) for column in zip(*parts, strict=True))
        return RoISamples(rois, labels, objects, indices, appended, self.num_classes)

    def _sample_image(self, image: int, boxes: Tensor, target: Targets, round: int) -> tuple[Tensor, ...]:
        own = torch.arange(len(target.boxes), device=boxes.device)
        matched = match_boxes(
            boxes,
            target.boxes,
            positive_iou=self.iou,
            negative_iou=self.iou,
            low_quality_iou=self.iou if self.low_quality_matches else None,
        )
        # Matched before the ground truth joins them: it must not take the low-quality matches for itself.
        boxes = torch.cat([target.boxes, boxes])
        matched = torch.cat([own, matched])
        generator = torch.Generator().manual_seed((target.seed + round + 1) % 2**63)
        positives, negatives = sample_matches(matched, self.number, self.positive_fraction, generator)
        chosen = torch.cat([positives, negatives])
        background = torch.arange(len(chosen), device=boxes.device) >= len(positives)
        index = torch.where(background, 0, matched[chosen])
        labels = torch.full_like(index, self.num_classes)
        objects = boxes.new_zeros((len(chosen), 4))
        labels[: len(positives)] = target.labels[matched[positives]]
        objects[: len(positives)] = target.boxes[matched[positives]]
        image_column = boxes.new_full((len(chosen), 1), image)
        return torch.cat([image_column, boxes[chosen]], 1), labels, objects, index, chosen < len(own)
