"""The RoIs that a stage of the cascade is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htc.ops.matching import match_boxes, sample_matches
from htc.structures import Targets


@dataclass
class RoISamples:
    """Sampled RoIs of a batch, grouped by image, with the positives of each image first."""

    rois: Tensor
    """[k, 5] float32, image index, then xyxy in pixels of the network input."""
    labels: Tensor
    """[k] int64, class of the matched object; `num_classes` for background."""
    matched_boxes: Tensor
    """[k, 4] float32, xyxy box of the matched object; zeros for background."""
    matched_indices: Tensor
    """[k] int64, index of the matched object within its image; 0 for background."""
    appended: Tensor
    """[k] bool, True for ground-truth boxes that were appended to the proposals."""
    num_classes: int
    """Number of foreground classes."""

    @property
    def positives(self) -> Tensor:
        """Indices [p] int64 of the RoIs that are matched to an object."""
        return torch.nonzero(self.labels < self.num_classes).squeeze(1)


@dataclass(frozen=True)
class RoISampler:
    """Matches proposals to objects and samples RoIs, each image with its own seed (Fast R-CNN section 2.3)."""

    rois_per_image: int
    """RoIs that are sampled from each image, if there are enough."""
    positive_fraction: float
    """Share of the RoIs of an image that positives fill at most."""
    positive_iou: float
    """Proposals with at least this IoU with an object are positives, the others negatives."""
    low_quality_matches: bool
    """Match each object also to the proposals that overlap it most, if their IoU is at least `positive_iou`."""
    num_classes: int

    def __call__(self, proposals: list[Tensor], targets: list[Targets], round: int) -> RoISamples:
        """Append the ground truth to the proposals, match them to objects and sample.

        Args:
            proposals: [n, 4] for each image, xyxy in pixels of the network input.
            targets: ground truth of each image, in the same frame.
            round: index of this sampling within the training step; each index draws other random numbers.
        """
        images = [
            self._sample_image(i, boxes, target, round)
            for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True))
        ]
        rois, labels, matched_boxes, matched_indices, appended = (torch.cat(part) for part in zip(*images, strict=True))
        return RoISamples(rois, labels, matched_boxes, matched_indices, appended, self.num_classes)

    def _sample_image(self, image_index: int, boxes: Tensor, target: Targets, round: int) -> tuple[Tensor, ...]:
        """Sample one image; return the first five fields of RoISamples."""
        num_objects = len(target.boxes)
        matched = match_boxes(
            boxes,
            target.boxes,
            positive_iou=self.positive_iou,
            negative_iou=self.positive_iou,
            low_quality_iou=self.positive_iou if self.low_quality_matches else None,
        )
        # The ground truth is appended after matching: otherwise it would be every object's best match, and no proposal
        # could become a low-quality match.
        boxes = torch.cat([target.boxes, boxes])
        matched = torch.cat([torch.arange(num_objects, device=boxes.device), matched])
        generator = torch.Generator().manual_seed((target.seed + round + 1) % 2**63)
        positives, negatives = sample_matches(matched, self.rois_per_image, self.positive_fraction, generator)
        chosen = torch.cat([positives, negatives])
        is_background = torch.arange(len(chosen), device=boxes.device) >= len(positives)
        matched_indices = torch.where(is_background, 0, matched[chosen])
        labels = torch.full_like(matched_indices, self.num_classes)
        matched_boxes = boxes.new_zeros((len(chosen), 4))
        labels[: len(positives)] = target.labels[matched[positives]]
        matched_boxes[: len(positives)] = target.boxes[matched[positives]]
        image_column = boxes.new_full((len(chosen), 1), image_index)
        rois = torch.cat([image_column, boxes[chosen]], 1)
        return rois, labels, matched_boxes, matched_indices, chosen < num_objects
