"""The complete network, from images to losses or detections. It is independent of devices, precision and processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from htc.config.schema import BackboneConfig, Config, EvalConfig, ModelConfig
from htc.errors import UserError
from htc.models.backbone import Backbone, build_backbone
from htc.models.cascade import Cascade, ImageFeatures, ImageSizes
from htc.models.rpn import RPN
from htc.models.semantic import LABEL_STRIDE, SemanticBranch, semantic_loss
from htc.structures import IGNORE_LABEL, Detections, Targets

SIZE_DIVISOR = 32
"""The padded height and width of a batch are multiples of this."""


class Detector(nn.Module):
    """Backbone with pyramid, RPN, semantic branch and cascade."""

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
        """Build all parts but the backbone with random weights.

        Args:
            config: settings of the RPN, the semantic branch and the cascade.
            backbone: body and pyramid with `config.channels` channels.
            num_classes: number of object categories.
            num_semantic_classes: logits of the semantic branch, if the model has one.
            pixels: mean, standard deviation and channel order of the backbone's input.
        """
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
        """Return the training losses by name. They are already weighted: training minimises their sum.

        Args:
            images: one [3, h, w] uint8 RGB tensor per image, of any sizes.
            targets: ground truth of each image, in the frame of its tensor.
        """
        sizes = image_sizes(images)
        pyramid = self.backbone(self.batch(images))
        rpn_output = self.rpn(pyramid)
        losses = self.rpn.losses(rpn_output, targets, sizes)
        proposals = [proposal.boxes for proposal in self.rpn.propose(rpn_output, sizes)]
        semantic_features = None
        if self.semantic is not None:
            logits, semantic_features = self.semantic(pyramid)
            height, width = (side * LABEL_STRIDE for side in logits.shape[-2:])
            labels = batch_labels(targets, height, width)
            losses["loss_semantic_seg"] = self.semantic_loss_weight * semantic_loss(logits, labels)
        return losses | self.cascade.losses(ImageFeatures(pyramid, semantic_features, sizes), proposals, targets)

    @torch.no_grad()
    def predict(
        self, images: list[Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        """Return the detections of each image, with boxes in the frame of the original image.

        Args:
            images: one [3, h, w] uint8 RGB tensor per image, of any sizes.
            original_sizes: (height, width) in pixels of each image before it was resized to [3, h, w].
            settings: thresholds and limits of the detections.
        """
        features, proposals = self.extract_features(images)
        detections = self.cascade.detect(features, proposals, settings)
        for detection, size, original in zip(detections, features.image_sizes, original_sizes, strict=True):
            scale = (size[1] / original[1], size[0] / original[0])
            detection.boxes = detection.boxes / detection.boxes.new_tensor(scale * 2)
        return detections

    def extract_features(self, images: list[Tensor]) -> tuple[ImageFeatures, list[Tensor]]:
        """Return the inputs of the cascade: features of the batch, and proposals [n, 4] xyxy of each image."""
        sizes = image_sizes(images)
        pyramid = self.backbone(self.batch(images))
        proposals = [proposal.boxes for proposal in self.rpn.propose(self.rpn(pyramid), sizes)]
        semantic_features = None if self.semantic is None else self.semantic(pyramid)[1]
        return ImageFeatures(pyramid, semantic_features, sizes), proposals

    def batch(self, images: list[Tensor]) -> Tensor:
        """Normalise [3, h, w] uint8 images, then pad them with zeros at the bottom and right to [B, 3, H, W]."""
        height, width = (
            -(-max(image.shape[axis] for image in images) // SIZE_DIVISOR) * SIZE_DIVISOR for axis in (1, 2)
        )
        batch = self.pixel_mean.new_zeros((len(images), 3, height, width))
        for slot, image in zip(batch, images, strict=True):
            ordered = image[self.channels] if self.channels[0] else image
            slot[:, : image.shape[1], : image.shape[2]] = (ordered - self.pixel_mean) / self.pixel_std
        return batch


def image_sizes(images: list[Tensor]) -> ImageSizes:
    """Return (height, width) of each [3, h, w] image."""
    return [(image.shape[1], image.shape[2]) for image in images]


def batch_labels(targets: list[Targets], height: int, width: int) -> Tensor:
    """Stack the semantic maps of a batch, padded with IGNORE_LABEL, to [B, height, width] uint8.

    Raises ValueError for targets without a semantic map.
    """
    labels = targets[0].boxes.new_full((len(targets), height, width), IGNORE_LABEL, dtype=torch.uint8)
    for slot, target in zip(labels, targets, strict=True):
        if target.semantic is None:
            raise ValueError("the model has a semantic branch but the targets hold no semantic map")
        slot[: target.semantic.shape[0], : target.semantic.shape[1]] = target.semantic
    return labels


def build_detector(config: Config, num_classes: int) -> Detector:
    """Build the network of a configuration for `num_classes` categories.

    Raises UserError for too few semantic classes, an unknown backbone, or backbone weights that do not fit.
    """
    if config.model.semantic and config.data.semantic_classes <= num_classes:
        raise UserError(
            f"data.semantic_classes={config.data.semantic_classes} must exceed the {num_classes} categories of the "
            "data set: things and at least one kind of background each need a value."
        )
    backbone = build_backbone(config.backbone, config.model.channels)
    return Detector(config.model, backbone, num_classes, config.data.semantic_classes, config.backbone)


def build_meta_detector(config: Config, num_classes: int) -> Detector:
    """Build the network on the meta device, without allocating memory.

    A damaged checkpoint may describe a network that does not fit into memory.
    """
    with torch.device("meta"):
        return build_detector(config, num_classes)
