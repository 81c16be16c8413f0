"""The region proposal network (Faster R-CNN, arXiv 1506.01497) on a feature pyramid (arXiv 1612.03144)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config.schema import BoxLoss, RPNConfig
from htc.models.backbone import PYRAMID_STRIDES
from htc.models.layers import init_normal
from htc.ops.anchors import base_anchors, grid_anchors, valid_anchors
from htc.ops.boxes import box_sides, clip_boxes, decode_deltas, encode_deltas
from htc.ops.loss_normaliser import loss_normaliser
from htc.ops.matching import IGNORED, match_boxes, sample_matches
from htc.ops.nms import grouped_nms
from htc.structures import Targets

STDS = (1.0, 1.0, 1.0, 1.0)
"""Standard deviations that the deltas of anchors are divided by."""


@dataclass
class RPNOutput:
    """Predictions for every anchor, one tensor per pyramid level, with anchors in the order (row, column, ratio)."""

    logits: list[Tensor]
    """Objectness logits, [B, anchors of the level]."""
    deltas: list[Tensor]
    """[B, anchors of the level, 4]."""
    anchors: list[Tensor]
    """[anchors of the level, 4] xyxy in pixels of the network input."""
    feature_sizes: list[tuple[int, int]]
    """(height, width) of each level in cells."""


@dataclass
class Proposals:
    """Proposals of one image, best first."""

    boxes: Tensor
    """[n, 4] xyxy in pixels of the network input, clipped to the image."""
    scores: Tensor
    """[n] objectness in 0..1."""


class RPN(nn.Module):
    """Region proposal network: a 3x3 convolution, then objectness and deltas of each anchor, shared by all levels."""

    def __init__(self, config: RPNConfig, channels: int, box_loss: BoxLoss) -> None:
        super().__init__()
        self.config = config
        self.num_ratios = len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, self.num_ratios, 1)
        self.deltas = nn.Conv2d(channels, self.num_ratios * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            init_normal(layer, 0.01)
        self.box_loss = box_loss
        for i, stride in enumerate(PYRAMID_STRIDES):
            base = base_anchors(stride, config.anchor_scale, config.anchor_ratios, config.round_anchors)
            self.register_buffer(f"base_anchors{i}", base, persistent=False)

    def forward(self, features: list[Tensor]) -> RPNOutput:
        """Predict objectness and deltas of every anchor from the pyramid levels P2..P6, each [B, channels, h, w]."""
        output = RPNOutput([], [], [], [])
        for i, (feature, stride) in enumerate(zip(features, PYRAMID_STRIDES, strict=True)):
            x = F.relu(self.conv(feature))
            size = (feature.shape[-2], feature.shape[-1])
            output.logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            output.deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            output.anchors.append(grid_anchors(self.get_buffer(f"base_anchors{i}"), size, stride))
            output.feature_sizes.append(size)
        return output

    @torch.no_grad()
    def propose(self, output: RPNOutput, image_sizes: list[tuple[int, int]]) -> list[Proposals]:
        """Return the proposals of each image, whose (height, width) before padding are `image_sizes`.

        The anchors with the highest scores of each level are decoded, clipped to the image and suppressed within their
        level. The best of the remaining boxes of all levels are the proposals.
        """
        config = self.config
        pre_nms = config.train_pre_nms if self.training else config.test_pre_nms
        max_proposals = config.train_proposals if self.training else config.test_proposals
        boxes, scores, levels = [], [], []
        for i, (logits, deltas, anchors) in enumerate(zip(output.logits, output.deltas, output.anchors, strict=True)):
            level_scores = logits.float().sigmoid()
            level_anchors = anchors.expand(len(logits), -1, -1)
            if level_scores.shape[1] > pre_nms:
                level_scores, order = level_scores.sort(dim=1, descending=True)
                level_scores, order = level_scores[:, :pre_nms], order[:, :pre_nms]
                deltas, level_anchors = deltas.gather(1, order[..., None].expand(-1, -1, 4)), anchors[order]
            scores.append(level_scores)
            boxes.append(decode_deltas(level_anchors.flatten(0, 1), deltas.flatten(0, 1), STDS).view_as(deltas))
            levels.append(torch.full((level_scores.shape[1],), i, device=logits.device))
        all_boxes, all_scores, all_levels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels)
        proposals = []
        for image_boxes, image_scores, size in zip(all_boxes, all_scores, image_sizes, strict=True):
            image_boxes = clip_boxes(image_boxes, size)
            width, height = box_sides(image_boxes)
            valid = torch.nonzero((width > 0) & (height > 0)).squeeze(1)
            image_boxes, image_scores = image_boxes[valid], image_scores[valid]
            keep = grouped_nms(image_boxes, image_scores, all_levels[valid], config.nms_iou)[:max_proposals]
            proposals.append(Proposals(image_boxes[keep], image_scores[keep]))
        return proposals

    def losses(
        self, output: RPNOutput, targets: list[Targets], image_sizes: list[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """Return the objectness loss and the box loss over sampled anchors.

        Both are divided by the number of sampled anchors of the batch, counting at least one positive and one negative
        per image, as the reference implementation does.

        Args:
            output: predictions for the batch.
            targets: ground truth of each image.
            image_sizes: (height, width) of each image before padding.
        """
        anchors = torch.cat(output.anchors)
        logits, deltas = torch.cat(output.logits, 1), torch.cat(output.deltas, 1)
        sampled_logits, objectness, positive_deltas, delta_targets = [], [], [], []
        num_samples = 0
        for i, (target, size) in enumerate(zip(targets, image_sizes, strict=True)):
            matched = self._match(anchors, target, output.feature_sizes, size)
            generator = torch.Generator().manual_seed(target.seed)
            positives, negatives = sample_matches(
                matched, self.config.anchors_per_image, self.config.positive_fraction, generator
            )
            num_samples += max(len(positives), 1) + max(len(negatives), 1)
            sampled_logits.append(logits[i, torch.cat([positives, negatives])])
            objectness.append((torch.arange(len(sampled_logits[-1]), device=logits.device) < len(positives)).float())
            positive_deltas.append(deltas[i, positives])
            matched_boxes = target.boxes[matched[positives]]
            delta_targets.append(encode_deltas(anchors[positives], matched_boxes, STDS))
        class_loss = F.binary_cross_entropy_with_logits(
            torch.cat(sampled_logits), torch.cat(objectness), reduction="sum"
        )
        box_loss = box_regression_loss(torch.cat(positive_deltas), torch.cat(delta_targets), self.box_loss, beta=1 / 9)
        normaliser = loss_normaliser(num_samples)
        return {"loss_rpn_cls": class_loss / normaliser, "loss_rpn_bbox": box_loss / normaliser}

    def _match(
        self, anchors: Tensor, target: Targets, feature_sizes: list[tuple[int, int]], size: tuple[int, int]
    ) -> Tensor:
        """Match anchors to the objects of one image, as `match_boxes` does.

        Anchors outside the image (by more than `allowed_border`, if it is not negative) are IGNORED.

        Args:
            anchors: [anchors of all levels, 4].
            target: ground truth of the image.
            feature_sizes: (height, width) of each level in cells.
            size: (height, width) of the image before padding.
        """
        config = self.config
        valid = valid_anchors(tuple(feature_sizes), PYRAMID_STRIDES, self.num_ratios, size).to(anchors.device)
        if config.allowed_border >= 0:
            border = config.allowed_border
            valid = valid & (anchors[:, :2] >= -border).all(1)
            valid = valid & (anchors[:, 2] < size[1] + border) & (anchors[:, 3] < size[0] + border)
        valid_indices = torch.nonzero(valid).squeeze(1)
        matched = torch.full((len(anchors),), IGNORED, dtype=torch.int64, device=anchors.device)
        matched[valid_indices] = match_boxes(
            anchors[valid_indices],
            target.boxes,
            positive_iou=config.positive_iou,
            negative_iou=config.negative_iou,
            low_quality_iou=config.negative_iou,
        )
        return matched


def box_regression_loss(deltas: Tensor, targets: Tensor, kind: BoxLoss, beta: float) -> Tensor:
    """Return the sum of the losses between deltas and targets, a scalar; 0 for n = 0.

    Args:
        deltas: [n, 4], predicted.
        targets: [n, 4] float32.
        kind: smooth L1 or L1.
        beta: width of the quadratic part of smooth L1.
    """
    deltas = deltas.float()
    if kind is BoxLoss.l1:
        return F.l1_loss(deltas, targets, reduction="sum")
    return F.smooth_l1_loss(deltas, targets, reduction="sum", beta=beta)
