"""The cascade of box and mask heads: Figure 1 of Hybrid Task Cascade (arXiv 1901.07518).

One class covers the family. Mask R-CNN is one stage; Cascade Mask R-CNN is several; HTC adds three ideas, each to be
seen in one place: `interleaved` (the mask branch trains on boxes that its own stage has just refined), mask flow (an
object inside the mask branch), and the semantic features that RoI features take in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config.schema import BoxLoss, EvalConfig, MaskStages, ModelConfig, SemanticFusion
from htc.models.box_head import BoxHead, deltas_of_class
from htc.models.layers import zero_loss
from htc.models.mask_head import MaskBranch
from htc.models.roi_features import RoIFeatures
from htc.models.roi_sampling import RoISampler, RoISamples
from htc.models.rpn import box_regression_loss
from htc.ops.boxes import clip_boxes, decode_deltas, encode_deltas
from htc.ops.detections import select_detections
from htc.ops.loss_normaliser import loss_normaliser
from htc.ops.masks import crop_masks
from htc.structures import Detections, Targets

ImageSizes = list[tuple[int, int]]
MASK_SIZE = 28


@dataclass
class ImageFeatures:
    """Features of a batch of images, shared by all stages."""

    pyramid: list[Tensor]
    """P2..P6, each [B, channels, h, w]."""
    semantic_features: Tensor | None
    """[B, channels, H / 8, W / 8], or None without a semantic branch."""
    image_sizes: ImageSizes
    """(height, width) of each image in the batch, before padding."""


@dataclass(frozen=True)
class Stage:
    """What sets one stage apart from the others: its samples, the scale of its deltas, its weight in the loss."""

    sampler: RoISampler
    stds: tuple[float, ...]
    loss_weight: float
    box_loss: BoxLoss


class Cascade(nn.Module):
    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        assert config.stage_loss_weights and config.stage_ious and config.stage_stds
        fusion = config.semantic_fusion
        self.num_classes = num_classes
        self.interleaved = config.interleaved
        boxes, masks = SemanticFusion.box, SemanticFusion.mask
        both, sampling, aligned = SemanticFusion.both, config.roi_sampling, config.roi_aligned
        self.box_features = RoIFeatures(7, fuse_semantic=fusion in (boxes, both), sampling=sampling, aligned=aligned)
        self.mask_features = RoIFeatures(14, fuse_semantic=fusion in (masks, both), sampling=sampling, aligned=aligned)
        self.box_heads = nn.ModuleList(
            BoxHead(config.channels, config.fc_channels, num_classes, class_agnostic=config.class_agnostic)
            for _ in range(config.num_stages)
        )
        self.mask_branch = MaskBranch(
            config.channels,
            num_classes,
            config.num_stages,
            config.mask_convs,
            mask_flow=config.mask_flow,
            logit_std=config.logit_std,
        )
        self.stages = [
            Stage(
                RoISampler(
                    config.rois_per_image, config.positive_fraction, iou, config.low_quality_matches, num_classes
                ),
                tuple(stds),
                weight,
                config.box_loss,
            )
            for iou, stds, weight in zip(config.stage_ious, config.stage_stds, config.stage_loss_weights, strict=True)
        ]

    def losses(self, features: ImageFeatures, proposals: list[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted losses of every stage, `s0.loss_cls`, `s0.loss_bbox`, `s0.loss_mask`, ...

        Proposals: [n, 4] of each image, without gradient.
        """
        losses: dict[str, Tensor] = {}
        for t, stage in enumerate(self.stages):
            samples = stage.sampler(proposals, targets, round=2 * t)
            logits, deltas = self.box_heads[t](self._box_features(features, samples.rois))
            proposals = self._refined_proposals(stage, features, samples, logits, deltas)
            mask_samples = stage.sampler(proposals, targets, round=2 * t + 1) if self.interleaved else samples
            stage_losses = {
                **box_losses(stage, samples, logits, deltas),
                "loss_mask": self._mask_loss(t, features, mask_samples, targets),
            }
            losses |= {f"s{t}.{name}": stage.loss_weight * loss for name, loss in stage_losses.items()}
        return losses

    def detect(self, features: ImageFeatures, proposals: list[Tensor], settings: EvalConfig) -> list[Detections]:
        """Detections of each image, boxes in the frame of the network input.

        Boxes are the last stage's, class scores the mean of all stages' logits, masks the mean of all stages' masks.
        """
        counts = [len(boxes) for boxes in proposals]
        rois = to_rois(proposals)
        total = rois.new_zeros((len(rois), self.num_classes + 1))
        for t, stage in enumerate(self.stages):
            logits, deltas = self.box_heads[t](self._box_features(features, rois))
            total = total + logits
            if t < len(self.stages) - 1:
                boxes = self._decode(stage, rois, deltas_of_class(deltas, logits[:, :-1].argmax(1)))
                rois = to_rois(self._clip(boxes.split(counts), features.image_sizes))
        scores = (total / len(self.stages)).softmax(1)
        boxes = self._decode_all(self.stages[-1], rois, deltas)
        detections = []
        for image_boxes, image_scores, size in zip(
            boxes.split(counts), scores.split(counts), features.image_sizes, strict=True
        ):
            clipped = clip_boxes(image_boxes.flatten(0, -2), size).view_as(image_boxes)
            kept = select_detections(
                clipped,
                image_scores,
                score_threshold=settings.score_threshold,
                nms_iou=settings.nms_iou,
                max_detections=settings.max_detections,
            )
            detections.append(kept)
        masks = self._predict_masks(
            features,
            [boxes for boxes, _, _ in detections],
            torch.cat([labels for _, _, labels in detections]),
            settings,
        )
        return [Detections(*kept, mask_probs) for kept, mask_probs in zip(detections, masks, strict=True)]

    def _box_features(self, features: ImageFeatures, rois: Tensor) -> Tensor:
        return self.box_features(features.pyramid, rois, features.semantic_features)

    def _mask_features(self, features: ImageFeatures, rois: Tensor) -> Tensor:
        return self.mask_features(features.pyramid, rois, features.semantic_features)

    @torch.no_grad()
    def _refined_proposals(
        self, stage: Stage, features: ImageFeatures, samples: RoISamples, logits: Tensor, deltas: Tensor
    ) -> list[Tensor]:
        """The sampled boxes as this stage refines them, [n, 4] of each image; appended ground truth is dropped."""
        classes = torch.where(samples.labels < self.num_classes, samples.labels, logits[:, :-1].argmax(1))
        boxes = self._decode(stage, samples.rois, deltas_of_class(deltas, classes))
        images = samples.rois[:, 0].long()
        of_images = [boxes[(images == i) & ~samples.appended] for i in range(len(features.image_sizes))]
        return self._clip(of_images, features.image_sizes)

    def _mask_loss(self, t: int, features: ImageFeatures, samples: RoISamples, targets: list[Targets]) -> Tensor:
        positives = samples.positives
        rois, labels = samples.rois[positives], samples.labels[positives]
        logits = self.mask_branch(t, self._mask_features(features, rois))
        number = loss_normaliser(len(positives))
        if len(positives) == 0:
            return zero_loss(logits)
        own = logits[torch.arange(len(labels), device=labels.device), labels]
        mean = F.binary_cross_entropy_with_logits(own, mask_targets(samples, positives, targets))
        return mean * (len(positives) / number)

    def _predict_masks(
        self, features: ImageFeatures, boxes: list[Tensor], labels: Tensor, settings: EvalConfig
    ) -> list[Tensor]:
        """Mask probabilities [n, 28, 28] of each image's boxes, each of its own class."""
        roi_features = self._mask_features(features, to_rois(boxes))
        if settings.mask_stages is MaskStages.average:
            logits = self.mask_branch.all_stages(roi_features)
        else:
            logits = [self.mask_branch(len(self.stages) - 1, roi_features)]
        rows = torch.arange(len(labels), device=labels.device)
        probabilities = torch.stack([stage[rows, labels].sigmoid() for stage in logits]).mean(0)
        return list(probabilities.split([len(b) for b in boxes]))

    @staticmethod
    def _decode(stage: Stage, rois: Tensor, deltas: Tensor) -> Tensor:
        return decode_deltas(rois[:, 1:], deltas, stage.stds)

    @staticmethod
    def _decode_all(stage: Stage, rois: Tensor, deltas: Tensor) -> Tensor:
        """Boxes [k, 4], or [k, classes, 4] where regression is class-specific."""
        if deltas.shape[1] == 4:
            return Cascade._decode(stage, rois, deltas)
        classes = deltas.shape[1] // 4
        boxes = decode_deltas(rois[:, 1:].repeat_interleave(classes, 0), deltas.reshape(-1, 4), stage.stds)
        return boxes.view(-1, classes, 4)

    @staticmethod
    def _clip(boxes: list[Tensor] | tuple[Tensor, ...], image_sizes: ImageSizes) -> list[Tensor]:
        return [clip_boxes(own, size) for own, size in zip(boxes, image_sizes, strict=True)]


def to_rois(boxes: list[Tensor]) -> Tensor:
    """Boxes [n, 4] of each image -> RoIs [sum n, 5], image index first."""
    return torch.cat([torch.cat([own.new_full((len(own), 1), i), own], 1) for i, own in enumerate(boxes)])


def box_losses(stage: Stage, samples: RoISamples, logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """Class and box loss of one stage, both divided by the number of sampled RoIs."""
    number = loss_normaliser(len(samples.labels))
    positives = samples.positives
    targets = encode_deltas(samples.rois[positives, 1:], samples.matched_boxes[positives], stage.stds)
    own = deltas_of_class(deltas[positives], samples.labels[positives])
    return {
        "loss_cls": F.cross_entropy(logits, samples.labels, reduction="sum") / number,
        "loss_bbox": box_regression_loss(own, targets, stage.box_loss, beta=1.0) / number,
    }


def mask_targets(samples: RoISamples, positives: Tensor, targets: list[Targets]) -> Tensor:
    """The objects' masks as seen through the positive RoIs -> [number of positives, 28, 28] of 0 and 1."""
    rois, index = samples.rois[positives], samples.matched_indices[positives]
    images = rois[:, 0].long()
    crops = [
        crop_masks(target.masks, rois[images == i, 1:], index[images == i], MASK_SIZE)
        for i, target in enumerate(targets)
    ]
    return torch.cat(crops)
