"""Checks that our network agrees with the reference, within the tolerances of golden/README.md.

Each check yields its deviations as (item, deviation), and raises AssertionError if one exceeds its tolerance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_iou

from htc.interop.mmdetection_names import our_name
from htc.ops.paste import encode_masks
from tests.parity.reference import Comparison

RELATIVE, ABSOLUTE = 1e-3, 1e-4
# Which of two boxes of equal score suppresses the other depends on the order of PyTorch's sort, which keeps the order
# of the input on processors without AVX-512 or AVX2. There, a confident network has other proposals and other samples
# than the reference.
SORTS_LIKE_REFERENCE = not torch.equal(torch.zeros(2000).sort(descending=True).indices, torch.arange(2000))
MIN_MATCHED = 0.99 if SORTS_LIKE_REFERENCE else 0.95
TRAINING_RELATIVE = RELATIVE if SORTS_LIKE_REFERENCE else 1e-2
UNDECIDED = 1e-4
"""Mask pixels whose probability differs from the threshold by at most this are not compared: rounding decides them. In
a mask of forty pixels, one pixel is already more than the 2 % that may differ."""
Deviation = tuple[str, float]
"""Item, and its largest deviation relative to the largest value of the reference."""


def agree(
    item: str, ours: Tensor, reference: Tensor, relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> Deviation:
    """Assert that all values differ by at most `absolute + relative * |reference|`; return the largest difference."""
    assert ours.shape == reference.shape, f"{item}: shape {tuple(ours.shape)} instead of {tuple(reference.shape)}"
    ours, reference = ours.detach().double(), reference.double()
    difference = (ours - reference).abs()
    excess = difference - (absolute + relative * reference.abs())
    assert excess.max() <= 0, f"{item} differs by up to {difference.max():.3g} of {reference.abs().max():.3g}"
    return item, float(difference.max() / reference.abs().max().clamp(min=1e-12))


def check_input(comparison: Comparison) -> Iterator[Deviation]:
    batch = comparison.model.batch(comparison.inputs.images)
    yield agree("input", batch[:, :, ::8, ::8], comparison.reference("input"))


def check_pyramid(comparison: Comparison) -> Iterator[Deviation]:
    for level, features in enumerate(comparison.pyramid, start=2):
        # The stored features are subsampled.
        step = max(1, 8 >> (level - 2))
        yield agree("FPN", features[:, :8, ::step, ::step], comparison.reference(f"fpn{level}"))


def check_rpn(comparison: Comparison) -> Iterator[Deviation]:
    with torch.no_grad():
        output = comparison.model.rpn(comparison.pyramid)
        num_images, size = len(comparison.inputs.images), output.feature_sizes[3]
        logits = output.logits[3].view(num_images, *size, -1).permute(0, 3, 1, 2)
        deltas = output.deltas[3].view(num_images, *size, -1).permute(0, 3, 1, 2)
        yield agree("RPN", logits, comparison.reference("rpn_cls_p5"))
        yield agree("RPN", deltas, comparison.reference("rpn_reg_p5"))
        proposals = comparison.model.rpn.propose(output, comparison.inputs.sizes)
    for i, ours in enumerate(proposals):
        boxes, scores = comparison.reference(f"proposals{i}"), comparison.reference(f"proposal_scores{i}")
        pairs = match(ours.boxes, ours.scores, None, boxes, scores, None)
        yield "proposals unmatched", unmatched("proposals", len(pairs), len(ours.boxes), len(boxes))


def check_semantic(comparison: Comparison) -> Iterator[Deviation]:
    assert (comparison.semantic is not None) == ("semantic_logits" in comparison.stored.files)
    if comparison.semantic is not None:
        logits, features = comparison.semantic
        yield agree("semantic", logits[:, :16, ::4, ::4], comparison.reference("semantic_logits"))
        yield agree("semantic", features[:, :8, ::4, ::4], comparison.reference("semantic_feat"))


def check_heads(comparison: Comparison) -> Iterator[Deviation]:
    cascade, rois, image_features = comparison.model.cascade, comparison.reference("rois"), comparison.image_features
    with torch.no_grad():
        box_features = cascade.box_features(image_features.pyramid, rois, image_features.semantic_features)
        mask_features = cascade.mask_features(image_features.pyramid, rois, image_features.semantic_features)
        stages = sum(1 for name in comparison.names("stage") if name.endswith("_cls"))
        assert len(cascade.box_heads) == stages
        for t, head in enumerate(cascade.box_heads):
            logits, deltas = head(box_features)
            yield agree("class logits", logits, comparison.reference(f"stage{t}_cls"))
            yield agree("box deltas", deltas, comparison.reference(f"stage{t}_reg"))
            masks = cascade.mask_branch(t, mask_features)[:, :3]
            yield agree("mask logits", masks, comparison.reference(f"stage{t}_mask_logits"))


def check_detections(comparison: Comparison) -> Iterator[Deviation]:
    inputs, settings = comparison.inputs, comparison.config.eval
    detections = comparison.model.eval().predict(inputs.images, inputs.original_sizes, settings)
    for i, (ours, size) in enumerate(zip(detections, inputs.original_sizes, strict=True)):
        boxes, scores = comparison.reference(f"det{i}_boxes"), comparison.reference(f"det{i}_scores")
        labels = comparison.reference(f"det{i}_labels").long()
        pairs = match(ours.boxes, ours.scores, ours.labels, boxes, scores, labels)
        thresholds = (settings.mask_threshold + offset for offset in (0, -UNDECIDED, UNDECIDED))
        rles, wide, narrow = (encode_masks(ours.mask_probs, ours.boxes, *size, each) for each in thresholds)
        references = read_rles(json.loads(str(comparison.stored[f"det{i}_rle"])), size)
        overlaps = [mask_iou(rles[a], references[b], wide[a], narrow[a]) for a, b in pairs]
        matched = sum(overlap > 0.98 for overlap in overlaps)
        yield "detections unmatched", unmatched("detections", matched, len(ours), len(boxes))
        if pairs:
            a, b = torch.tensor(pairs).T
            yield agree("detections: scores", ours.scores[a], scores[b])
            yield "detections: boxes", float((ours.boxes[a] - boxes[b]).abs().max() / boxes.abs().max())
            yield "detections: 1 - mask IoU", 1 - min(overlaps)


def check_losses(comparison: Comparison) -> Iterator[Deviation]:
    yield from agree_losses(comparison, training_losses(comparison))


def check_training(comparison: Comparison) -> Iterator[Deviation]:
    """Compare losses and gradient norms.

    Norms are summed in float64, because float32 loses three digits in the largest layer.
    """
    model = comparison.model
    model.zero_grad()
    losses = training_losses(comparison)
    yield from agree_losses(comparison, losses)
    sum(losses.values(), start=torch.zeros(())).backward()
    parameters = dict(model.named_parameters())
    names = list(comparison.names("gradnorm."))
    assert names
    for name in names:
        parameter = parameters.get(our_name(name.removeprefix("gradnorm.")) or "")
        norm = torch.zeros((), dtype=torch.float64)
        if parameter is not None and parameter.grad is not None:
            norm = parameter.grad.double().norm()
        yield agree("gradient norms", norm, comparison.reference(name), TRAINING_RELATIVE, absolute=0.0)
    model.zero_grad()


def training_losses(comparison: Comparison) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = comparison.model.train()(comparison.inputs.images, comparison.inputs.targets)
    comparison.model.eval()
    return losses


def agree_losses(comparison: Comparison, losses: dict[str, Tensor]) -> Iterator[Deviation]:
    stored = {name.removeprefix("loss."): name for name in comparison.names("loss.") if re.search(r"loss_\w+$", name)}
    assert len(stored) == len(losses)
    for name, value in losses.items():
        reference = comparison.reference(stored.get(name) or stored[name.removeprefix("s0.")])
        yield agree("losses", value, reference, TRAINING_RELATIVE, absolute=0.0)


def check_frozen(comparison: Comparison) -> Iterator[Deviation]:
    frozen = {name for name, parameter in comparison.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {our_name(name) for name in comparison.meta["frozen"]}
    yield "frozen parameters", 0.0


CHECKS = (
    check_input, check_pyramid, check_rpn, check_semantic, check_heads, check_detections, check_training,
    check_frozen,
)  # fmt: skip


def match(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    reference_boxes: Tensor,
    reference_scores: Tensor,
    reference_labels: Tensor | None,
) -> list[tuple[int, int]]:
    """Match boxes to reference boxes of the same label, with box IoU over 0.99 and scores within 0.001.

    Return the pairs of indices; each box is in at most one pair.
    """
    overlaps = box_iou(boxes, reference_boxes)
    can_match = (overlaps > 0.99) & ((scores[:, None] - reference_scores[None]).abs() <= 1e-3)
    if labels is not None and reference_labels is not None:
        can_match &= labels[:, None] == reference_labels[None]
    overlaps = torch.where(can_match, overlaps, torch.zeros(()))
    pairs = []
    for i in range(len(boxes)):
        j = int(overlaps[i].argmax()) if len(reference_boxes) else 0
        if len(reference_boxes) and overlaps[i, j] > 0:
            pairs.append((i, j))
            overlaps[:, j] = 0
    return pairs


def unmatched(item: str, matched: int, ours: int, reference: int) -> float:
    """Return the share of items without a partner, and assert that enough have one."""
    share = matched / max(ours, reference, 1)
    assert share >= MIN_MATCHED or ours == reference == 0, (
        f"{item}: {matched} of {ours} match the reference's {reference}"
    )
    return 1 - share


def mask_iou(
    ours: Mapping[str, Any], reference: Mapping[str, Any], wide: Mapping[str, Any], narrow: Mapping[str, Any]
) -> float:
    """Return the IoU of two RLEs, without the undecided pixels, which are in `wide` and not in `narrow`.

    The IoU of two empty masks is 1.
    """
    if ours["counts"] == reference["counts"]:
        return 1.0
    our_mask, reference_mask, wide_mask = (coco_mask.decode(rle).astype(bool) for rle in (ours, reference, wide))
    decided = ~wide_mask | coco_mask.decode(narrow).astype(bool)
    union = ((our_mask | reference_mask) & decided).sum()
    return float((our_mask & reference_mask & decided).sum() / union) if union else 1.0


def read_rles(stored: list[Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return stored masks as RLEs with the size (height, width) of their image."""
    return [{"size": list(size), "counts": one["counts"] if isinstance(one, dict) else one} for one in stored]
