"""Inference of a detector's configuration from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchvision.models.resnet import Bottleneck

from htc.errors import UserError
from htc.models.backbone import BODIES

Shapes = Mapping[str, Sequence[int]]
"""Shape of each tensor, by our names."""

KNOWN_BODIES = {
    (blocks, block is Bottleneck, groups, group_width): name
    for name, (block, blocks, groups, group_width) in BODIES.items()
}
"""Name of our backbone by blocks per stage, whether they are bottlenecks, groups, and channels per group."""


@dataclass
class Architecture:
    """Architecture of a detector, as overrides of our configuration."""

    overrides: dict[str, Any]
    """Values of Hydra groups (`model` and `backbone`) and of dotted keys."""
    num_classes: int
    """Number of object categories."""


def read_architecture(shapes: Shapes, source: str) -> Architecture:
    """Infer the architecture of a detector from the shapes of its tensors.

    Raises UserError, naming `source`, for a network that our configuration cannot express.
    """
    stages = _count(shapes, r"cascade\.box_heads\.(\d+)\.logits\.weight")
    mask_heads = _count(shapes, r"cascade\.mask_branch\.heads\.(\d+)\.logits\.weight")
    if stages == 0 or mask_heads != stages:
        raise UserError(
            f"{source} has {stages} box and {mask_heads} mask heads of the kinds known here (Mask R-CNN, Cascade Mask "
            "R-CNN, HTC with two fully connected layers per box head): give a checkpoint of one of these."
        )
    semantic = "semantic.logits.weight" in shapes
    # With mask flow, each stage but the first has an embedding. The first may have one too, which is not used.
    embeddings = {int(stage) for stage in _numbers(shapes, r"cascade\.mask_branch\.flow\.embeddings\.(\d+)\.")}
    mask_flow = stages > 1 and set(range(1, stages)) <= embeddings
    name = "htc" if semantic or mask_flow else "cascade_mask_rcnn" if stages > 1 else "mask_rcnn"
    deltas = _shape(shapes, "cascade.box_heads.0.deltas.weight", source, 2)
    overrides: dict[str, Any] = {
        "model": name,
        **_body(shapes, source),
        "model.num_stages": stages,
        "model.semantic": semantic,
        "model.mask_flow": mask_flow,
        "model.class_agnostic": deltas[0] == 4,
        "model.channels": _shape(shapes, "backbone.fpn.layer_blocks.0.0.weight", source, 4)[0],
        "model.fc_channels": _shape(shapes, "cascade.box_heads.0.fc1.weight", source, 2)[0],
        "model.mask_convs": _count(shapes, r"cascade\.mask_branch\.heads\.0\.convs\.(\d+)\.0\.weight"),
    }
    if semantic:
        overrides["model.semantic_convs"] = _count(shapes, r"semantic\.convs\.(\d+)\.0\.weight")
        overrides["data.semantic_classes"] = _shape(shapes, "semantic.logits.weight", source, 4)[0]
    deformable = sorted({int(n) for n in _numbers(shapes, r"backbone\.body\.layer(\d)\.\d+\.conv2\.conv_offset\.")})
    if deformable:
        overrides["backbone.deformable_stages"] = deformable
    num_classes = _shape(shapes, "cascade.box_heads.0.logits.weight", source, 2)[0] - 1
    if num_classes == 0:
        raise UserError(f"{source} has no foreground classes: give a checkpoint with one or more classes.")
    return Architecture(overrides, num_classes)


def _body(shapes: Shapes, source: str) -> dict[str, Any]:
    """Return the overrides of the backbone's name and width. Raises UserError for an unknown body."""
    blocks = tuple(_count(shapes, rf"backbone\.body\.layer{i}\.(\d+)\.conv1\.weight") for i in range(1, 5))
    bottleneck = "backbone.body.layer1.0.conv3.weight" in shapes
    stem = _shape(shapes, "backbone.body.conv1.weight", source, 4)[0]
    conv2 = _shape(shapes, "backbone.body.layer1.0.conv2.weight", source, 4)
    groups = conv2[0] // conv2[1]
    # Scaled to the usual stem of 64 channels.
    group_width = conv2[1] * 64 // stem
    name = KNOWN_BODIES.get((blocks, bottleneck, groups, group_width))
    if name is None:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise UserError(
            f"{source} has a backbone of {blocks} {kind} with {groups} groups of {group_width} channels, which is none "
            f"of {', '.join(BODIES)}: give a checkpoint with one of these."
        )
    return {"backbone": name} if stem == 64 else {"backbone": name, "backbone.width": stem}


def _shape(shapes: Shapes, key: str, source: str, dimensions: int) -> Sequence[int]:
    """Return the shape of the tensor `key`.

    Raises UserError if the tensor is missing, or does not have this number of dimensions of size 1 or more.
    """
    if key not in shapes:
        raise UserError(
            f"{source} lacks {key} (our name): it is not a Mask R-CNN, Cascade Mask R-CNN or HTC on an FPN."
        )
    shape = shapes[key]
    if len(shape) != dimensions or min(shape) < 1:
        raise UserError(
            f"{source} has a {key} (our name) of shape {list(shape)} instead of {dimensions} dimensions of size 1 or "
            "more: it is damaged; download or convert it again."
        )
    return shape


def _numbers(shapes: Shapes, pattern: str) -> set[str]:
    """Return the values of the pattern's group in the names that start with it."""
    return {match[1] for key in shapes if (match := re.match(pattern, key))}


def _count(shapes: Shapes, pattern: str) -> int:
    return len(_numbers(shapes, pattern))
