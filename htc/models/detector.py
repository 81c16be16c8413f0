"""The whole network: images in, losses or detections out. It knows nothing of devices, precision or processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from htc.config.schema import BackboneConfig, Config, EvalConfig, ModelConfig
from htc.errors import UserError
from htc.models.backbone import Backbone, build_backbone
from htc.models.cascade import Cascade, ImageFeatures, ImageSizes
from htc.models.rpn import RPN
from htc.models.semantic import SemanticBranch, semantic_loss
from htc.structures import IGNORE_LABEL, Detections, Targets

SIZE_DIVISOR = 32


class Detector(nn.Module):
    """Backbone, proposals, semantic branch and cascade."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        backbone: Backbone,
        num_classes: int,
        num_semantic_classes: int,
        pixels: BackboneConfig,
    ) -> None:
        """`pixels` says how the backbone wants its input: mean, standard deviation and order of the channels."""
        super().__init__()
        self.backbone = backbone
        self.rpn = RPN(config.rpn, config.channels, config.box_loss)
        self.semantic = (
            SemanticBranch(config.channels, num_semantic_classes, config.semantic_convs, logit_std=config.logit_std)
            if config.semantic
            else None
        )
        self.semantic_loss_weight = config.semantic_loss_weight
        self.cascade = Cascade(config, num_classes)
        self.channels = [2, 1, 0] if pixels.bgr else [0, 1, 2]
        for name, values in (("pixel_mean", pixels.pixel_mean), ("pixel_std", pixels.pixel_std)):
            buffer = torch.tensor(values, dtype=torch.float32)[self.channels].view(3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: list[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
        """Training losses by name, already weighted: their sum is what is minimised.

        images: [3, h, w] uint8 RGB each, of any sizes; targets in the same frames.
        """
        sizes = image_sizes(images)
        pyramid = self.backbone(self.batch(images))
        anchors = self.rpn(pyramid)
        losses = self.rpn.losses(anchors, targets, sizes)
        proposals = [proposal.boxes for proposal in self.rpn.propose(anchors, sizes)]
        semantic_features = None
        if self.semantic is not None:
            logits, semantic_features = self.semantic(pyramid)
            height, width = (side * 8 for side in logits.shape[-2:])
            labels = batch_labels(targets, height, width)
            losses["loss_semantic_seg"] = self.semantic_loss_weight * semantic_loss(logits, labels)
        return losses | self.cascade.losses(ImageFeatures(pyramid, semantic_features, sizes), proposals, targets)

    @torch.no_grad()
    def predict(
        self, images: list[Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        """Detections in the frames of the original images, of (height, width) `original_sizes`."""
        features, proposals = self.extract_features(images)
        detections = self.cascade.detect(features, proposals, settings)
        for detection, size, original in zip(detections, features.image_sizes, original_sizes, strict=True):
            scale = (size[1] / original[1], size[0] / original[0])
            detection.boxes = detection.boxes / detection.boxes.new_tensor(scale * 2)
        return detections

    def extract_features(self, images: list[Tensor]) -> tuple[ImageFeatures, list[Tensor]]:
        """What the cascade starts from: the features, and the proposals [n, 4] of each image."""
        sizes = image_sizes(images)
        pyramid = self.backbone(self.batch(images))
        proposals = [proposal.boxes for proposal in self.rpn.propose(self.rpn(pyramid), sizes)]
        semantic_features = None if self.semantic is None else self.semantic(pyramid)[1]
        return ImageFeatures(pyramid, semantic_features, sizes), proposals

    def batch(self, images: list[Tensor]) -> Tensor:
        """Normalise [3, h, w] uint8 images, then pad them at the bottom and right with zeros -> [B, 3, H, W]."""
        height, width = (
            -(-max(image.shape[axis] for image in images) // SIZE_DIVISOR) * SIZE_DIVISOR for axis in (1, 2)
        )
        batch = self.pixel_mean.new_zeros((len(images), 3, height, width))
        for slot, image in zip(batch, images, strict=True):
            ordered = image[self.channels] if self.channels[0] else image
            slot[:, : image.shape[1], : image.shape[2]] = (ordered - self.pixel_mean) / self.pixel_std
        return batch


def image_sizes(images: list[Tensor]) -> ImageSizes:
    """(height, width) of each [3, h, w] image."""
    return [(image.shape[1], image.shape[2]) for image in images]


def batch_labels(targets: list[Targets], height: int, width: int) -> Tensor:
    """Semantic labels of a batch, padded with the ignored label -> [B, height, width] uint8."""
    labels = targets[0].boxes.new_full((len(targets), height, width), IGNORE_LABEL, dtype=torch.uint8)
    for slot, target in zip(labels, targets, strict=True):
        if target.semantic is None:
            raise ValueError("the model has a semantic branch but the targets hold no semantic map")
        slot[: target.semantic.shape[0], : target.semantic.shape[1]] = target.semantic
    return labels


def build_detector(config: Config, num_classes: int) -> Detector:
    """The network of a configuration for `num_classes` categories. Raises UserError where the two do not fit."""
    if config.model.semantic and config.data.semantic_classes <= num_classes:
        raise UserError(
            f"data.semantic_classes={config.data.semantic_classes} must exceed the {num_classes} categories of the "
            "data set: things and at least one kind of background each need a value."
        )
    backbone = build_backbone(config.backbone, config.model.channels)
    return Detector(config.model, backbone, num_classes, config.data.semantic_classes, config.backbone)


def build_meta_detector(config: Config, num_classes: int) -> Detector:
    """`build_detector` without memory, on the meta device: what a damaged file describes may not fit into any."""
    with torch.device("meta"):
        return build_detector(config, num_classes)
