"""The cascade of box and mask heads: Figure 1 of Hybrid Task Cascade (arXiv 1901.07518).

One class covers the family. Mask R-CNN is one stage, Cascade Mask R-CNN is several. HTC adds three ideas, and each is
visible in one place: `interleaved` (the mask branch trains on boxes that its own stage has just refined), mask flow (a
module inside the mask branch), and semantic features (added to the RoI features).
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""(height, width) of each image of a batch in pixels, before padding."""
BOX_FEATURE_SIZE = 7
MASK_FEATURE_SIZE = 14
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
    """Settings of one stage of the cascade."""

    sampler: RoISampler
    """Samples the RoIs that the stage is trained on, with the IoU threshold of the stage."""
    stds: tuple[float, ...]
    """Standard deviations that the stage's box deltas (dx, dy, dw, dh) are divided by."""
    loss_weight: float
    """alpha_t of the paper's equation 7."""
    box_loss: BoxLoss


class Cascade(nn.Module):
    """Box and mask heads of all stages, and the loops over the stages for training and for inference.

    A stage pools features for its RoIs, classifies them and refines their boxes. The refined boxes are the proposals
    of the next stage. The mask branch of a stage works on the stage's own RoIs, or on the refined boxes where training
    is interleaved (section 3 of the paper).
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.interleaved = config.interleaved
        sampling, aligned = config.roi_sampling, config.roi_aligned
        boxes_fused = config.semantic_fusion in (SemanticFusion.box, SemanticFusion.both)
        masks_fused = config.semantic_fusion in (SemanticFusion.mask, SemanticFusion.both)
        self.box_features = RoIFeatures(BOX_FEATURE_SIZE, fuse_semantic=boxes_fused, sampling=sampling, aligned=aligned)
        self.mask_features = RoIFeatures(
            MASK_FEATURE_SIZE, fuse_semantic=masks_fused, sampling=sampling, aligned=aligned
        )
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
        self.stages = _build_stages(config, num_classes)

    def losses(self, features: ImageFeatures, proposals: list[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
        """Return the weighted losses of every stage, named `s0.loss_cls`, `s0.loss_bbox`, `s0.loss_mask`, `s1...`.

        Args:
            features: features of the batch.
            proposals: [n, 4] xyxy in pixels of the network input for each image, without gradient.
            targets: ground truth of each image, in the frame of the network input.
        """
        losses: dict[str, Tensor] = {}
        for t, stage in enumerate(self.stages):
            box_samples = stage.sampler(proposals, targets, round=2 * t)
            logits, deltas = self.box_heads[t](self._pool_box_features(features, box_samples.rois))
            proposals = self._refine_samples(stage, features, box_samples, logits, deltas)
            mask_samples = stage.sampler(proposals, targets, round=2 * t + 1) if self.interleaved else box_samples
            stage_losses = {
                **box_losses(stage, box_samples, logits, deltas),
                "loss_mask": self._mask_loss(t, features, mask_samples, targets),
            }
            losses |= {f"s{t}.{name}": stage.loss_weight * loss for name, loss in stage_losses.items()}
        return losses

    def detect(self, features: ImageFeatures, proposals: list[Tensor], settings: EvalConfig) -> list[Detections]:
        """Return the detections of each image, with boxes in the frame of the network input.

        Boxes are those of the last stage, class scores the softmax of the mean logits of all stages, and masks the
        mean of all stages' masks (or the last stage's masks, by `settings.mask_stages`).

        Args:
            features: features of the batch.
            proposals: [n, 4] xyxy in pixels of the network input for each image.
            settings: thresholds and limits of the detections.
        """
        rois_per_image = [len(boxes) for boxes in proposals]
        rois = to_rois(proposals)
        logits_sum = rois.new_zeros((len(rois), self.num_classes + 1))
        for t, stage in enumerate(self.stages):
            logits, deltas = self.box_heads[t](self._pool_box_features(features, rois))
            logits_sum = logits_sum + logits
            if t < len(self.stages) - 1:
                boxes = _decode(stage, rois, deltas_of_class(deltas, logits[:, :-1].argmax(1)))
                rois = to_rois(_clip(boxes.split(rois_per_image), features.image_sizes))
        scores = (logits_sum / len(self.stages)).softmax(1)
        boxes = _decode_all_classes(self.stages[-1], rois, deltas)
        selected = _select_per_image(
            boxes.split(rois_per_image), scores.split(rois_per_image), features.image_sizes, settings
        )
        masks = self._predict_masks(
            features, [boxes for boxes, _, _ in selected], torch.cat([labels for _, _, labels in selected]), settings
        )
        return [Detections(*kept, mask_probs) for kept, mask_probs in zip(selected, masks, strict=True)]

    def _pool_box_features(self, features: ImageFeatures, rois: Tensor) -> Tensor:
        return self.box_features(features.pyramid, rois, features.semantic_features)

    def _pool_mask_features(self, features: ImageFeatures, rois: Tensor) -> Tensor:
        return self.mask_features(features.pyramid, rois, features.semantic_features)

    @torch.no_grad()
    def _refine_samples(
        self, stage: Stage, features: ImageFeatures, samples: RoISamples, logits: Tensor, deltas: Tensor
    ) -> list[Tensor]:
        """Return the sampled boxes as this stage refines them, [n, 4] for each image.

        Boxes refined from ground truth that was appended to the proposals are left out. Class-specific deltas are
        those of the matched class, or of the highest foreground logit for background.
        """
        classes = torch.where(samples.labels < self.num_classes, samples.labels, logits[:, :-1].argmax(1))
        boxes = _decode(stage, samples.rois, deltas_of_class(deltas, classes))
        image_indices = samples.rois[:, 0].long()
        boxes_per_image = [boxes[(image_indices == i) & ~samples.appended] for i in range(len(features.image_sizes))]
        return _clip(boxes_per_image, features.image_sizes)

    def _mask_loss(self, t: int, features: ImageFeatures, samples: RoISamples, targets: list[Targets]) -> Tensor:
        """Return the binary cross-entropy of stage `t`'s masks, each of the RoI's own class, over the positives."""
        positives = samples.positives
        rois, labels = samples.rois[positives], samples.labels[positives]
        logits = self.mask_branch(t, self._pool_mask_features(features, rois))
        # Every process must call this equally often, so it stands before the return.
        normaliser = loss_normaliser(len(positives))
        if len(positives) == 0:
            return zero_loss(logits)
        class_logits = logits[torch.arange(len(labels), device=labels.device), labels]
        mean = F.binary_cross_entropy_with_logits(class_logits, mask_targets(samples, positives, targets))
        return mean * (len(positives) / normaliser)

    def _predict_masks(
        self, features: ImageFeatures, boxes: list[Tensor], labels: Tensor, settings: EvalConfig
    ) -> list[Tensor]:
        """Return the mask probabilities [n, 28, 28] of each image's boxes.

        Args:
            features: features of the batch.
            boxes: [n, 4] for each image, in the frame of the network input.
            labels: [sum of n] int64, the class of each box, whose mask is returned.
            settings: `mask_stages` says which stages' masks make the prediction.
        """
        roi_features = self._pool_mask_features(features, to_rois(boxes))
        if settings.mask_stages is MaskStages.average:
            stage_logits = self.mask_branch.all_stages(roi_features)
        else:
            stage_logits = [self.mask_branch(len(self.stages) - 1, roi_features)]
        rows = torch.arange(len(labels), device=labels.device)
        probabilities = torch.stack([logits[rows, labels].sigmoid() for logits in stage_logits]).mean(0)
        return list(probabilities.split([len(image_boxes) for image_boxes in boxes]))


def _build_stages(config: ModelConfig, num_classes: int) -> list[Stage]:
    """Return the settings of each stage of a finalised configuration."""
    assert config.stage_loss_weights and config.stage_ious and config.stage_stds
    rois, fraction, low_quality = config.rois_per_image, config.positive_fraction, config.low_quality_matches
    return [
        Stage(RoISampler(rois, fraction, iou, low_quality, num_classes), tuple(stds), loss_weight, config.box_loss)
        for iou, stds, loss_weight in zip(config.stage_ious, config.stage_stds, config.stage_loss_weights, strict=True)
    ]


def to_rois(boxes: list[Tensor]) -> Tensor:
    """Join the boxes [n, 4] of each image into RoIs [sum of n, 5], image index first."""
    return torch.cat(
        [
            torch.cat([image_boxes.new_full((len(image_boxes), 1), i), image_boxes], 1)
            for i, image_boxes in enumerate(boxes)
        ]
    )


def box_losses(stage: Stage, samples: RoISamples, logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """Return the class loss and the box loss of one stage, both divided by the number of sampled RoIs.

    Args:
        stage: settings of the stage.
        samples: the k sampled RoIs.
        logits: [k, classes + 1], background last.
        deltas: [k, 4], or [k, classes * 4] where regression is class-specific.
    """
    normaliser = loss_normaliser(len(samples.labels))
    positives = samples.positives
    delta_targets = encode_deltas(samples.rois[positives, 1:], samples.matched_boxes[positives], stage.stds)
    class_deltas = deltas_of_class(deltas[positives], samples.labels[positives])
    return {
        "loss_cls": F.cross_entropy(logits, samples.labels, reduction="sum") / normaliser,
        "loss_bbox": box_regression_loss(class_deltas, delta_targets, stage.box_loss, beta=1.0) / normaliser,
    }


def mask_targets(samples: RoISamples, positives: Tensor, targets: list[Targets]) -> Tensor:
    """Return the masks of the matched objects, cropped to the RoIs with the indices `positives` [p].

    The result is [p, 28, 28] of 0 and 1.
    """
    rois, matched_indices = samples.rois[positives], samples.matched_indices[positives]
    image_indices = rois[:, 0].long()
    crops = [
        crop_masks(target.masks, rois[image_indices == i, 1:], matched_indices[image_indices == i], MASK_SIZE)
        for i, target in enumerate(targets)
    ]
    return torch.cat(crops)


def _decode(stage: Stage, rois: Tensor, deltas: Tensor) -> Tensor:
    """Apply deltas [k, 4] to RoIs [k, 5] and return boxes [k, 4]."""
    return decode_deltas(rois[:, 1:], deltas, stage.stds)


def _decode_all_classes(stage: Stage, rois: Tensor, deltas: Tensor) -> Tensor:
    """Return boxes [k, 4], or [k, classes, 4] where regression is class-specific."""
    if deltas.shape[1] == 4:
        return _decode(stage, rois, deltas)
    classes = deltas.shape[1] // 4
    boxes = decode_deltas(rois[:, 1:].repeat_interleave(classes, 0), deltas.reshape(-1, 4), stage.stds)
    return boxes.view(-1, classes, 4)


def _clip(boxes: Sequence[Tensor], image_sizes: ImageSizes) -> list[Tensor]:
    """Clip the boxes [n, 4] of each image to its size."""
    return [clip_boxes(image_boxes, size) for image_boxes, size in zip(boxes, image_sizes, strict=True)]


def _select_per_image(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], image_sizes: ImageSizes, settings: EvalConfig
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Clip the boxes of each image and select its detections: boxes [n, 4], scores [n] and labels [n] per image."""
    return [
        select_detections(
            clip_boxes(image_boxes.flatten(0, -2), size).view_as(image_boxes),
            image_scores,
            score_threshold=settings.score_threshold,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
        )
        for image_boxes, image_scores, size in zip(boxes, scores, image_sizes, strict=True)
    ]
