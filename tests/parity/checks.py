"""What must agree with the reference, each item within the tolerance of golden/README.md.

Each check yields its deviations as (item, deviation) and raises AssertionError where one is beyond its tolerance.
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
# Which of two equal scores suppresses the other is up to PyTorch's sort, which keeps the input's order on processors
# without AVX-512 or AVX2. There a confident network has other proposals than the reference's, and other samples.
SORTS_ALIKE = not torch.equal(torch.zeros(2000).sort(descending=True).indices, torch.arange(2000))
MATCHED = 0.99 if SORTS_ALIKE else 0.95
TRAINING_RELATIVE = RELATIVE if SORTS_ALIKE else 1e-2
UNDECIDED = 1e-4
"""A mask's pixel whose probability is this close to the threshold may fall to either side: rounding decides, and of a
mask of forty pixels a single one is more than the two hundredths that may differ."""
Deviation = tuple[str, float]


def agree(
    item: str, mine: Tensor, reference: Tensor, relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> Deviation:
    """The largest difference, in proportion to the largest value; `absolute` is allowed near zero."""
    assert mine.shape == reference.shape, f"{item}: shape {tuple(mine.shape)} instead of {tuple(reference.shape)}"
    mine, reference = mine.detach().double(), reference.double()
    difference = (mine - reference).abs()
    beyond = difference - (absolute + relative * reference.abs())
    assert beyond.max() <= 0, f"{item} differs by up to {difference.max():.3g} of {reference.abs().max():.3g}"
    return item, float(difference.max() / reference.abs().max().clamp(min=1e-12))


def check_input(comparison: Comparison) -> Iterator[Deviation]:
    batch = comparison.model.batch(comparison.inputs.images)
    yield agree("input", batch[:, :, ::8, ::8], comparison.reference("input"))


def check_pyramid(comparison: Comparison) -> Iterator[Deviation]:
    for level, features in enumerate(comparison.pyramid, start=2):
        step = max(1, 8 >> (level - 2))
        yield agree("FPN", features[:, :8, ::step, ::step], comparison.reference(f"fpn{level}"))


def check_rpn(comparison: Comparison) -> Iterator[Deviation]:
    with torch.no_grad():
        output = comparison.model.rpn(comparison.pyramid)
        number, size = len(comparison.inputs.images), output.feature_sizes[3]
        logits = output.logits[3].view(number, *size, -1).permute(0, 3, 1, 2)
        deltas = output.deltas[3].view(number, *size, -1).permute(0, 3, 1, 2)
        yield agree("RPN", logits, comparison.reference("rpn_cls_p5"))
        yield agree("RPN", deltas, comparison.reference("rpn_reg_p5"))
        proposals = comparison.model.rpn.propose(output, comparison.inputs.sizes)
    for i, mine in enumerate(proposals):
        boxes, scores = comparison.reference(f"proposals{i}"), comparison.reference(f"proposal_scores{i}")
        pairs = match(mine.boxes, mine.scores, None, boxes, scores, None)
        yield "proposals unmatched", unmatched("proposals", len(pairs), len(mine.boxes), len(boxes))


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
    found = comparison.model.eval().predict(inputs.images, inputs.original_sizes, settings)
    for i, (mine, size) in enumerate(zip(found, inputs.original_sizes, strict=True)):
        boxes, scores = comparison.reference(f"det{i}_boxes"), comparison.reference(f"det{i}_scores")
        labels = comparison.reference(f"det{i}_labels").long()
        pairs = match(mine.boxes, mine.scores, mine.labels, boxes, scores, labels)
        thresholds = (settings.mask_threshold + offset for offset in (0, -UNDECIDED, UNDECIDED))
        rles, wide, narrow = (encode_masks(mine.mask_probs, mine.boxes, *size, each) for each in thresholds)
        references = read_rles(json.loads(str(comparison.stored[f"det{i}_rle"])), size)
        overlaps = [mask_iou(rles[a], references[b], wide[a], narrow[a]) for a, b in pairs]
        good = sum(overlap > 0.98 for overlap in overlaps)
        yield "detections unmatched", unmatched("detections", good, len(mine), len(boxes))
        if pairs:
            a, b = torch.tensor(pairs).T
            yield agree("detections: scores", mine.scores[a], scores[b])
            yield "detections: boxes", float((mine.boxes[a] - boxes[b]).abs().max() / boxes.abs().max())
            yield "detections: 1 - mask IoU", 1 - min(overlaps)


def check_losses(comparison: Comparison) -> Iterator[Deviation]:
    yield from agree_losses(comparison, training_losses(comparison))


def check_training(comparison: Comparison) -> Iterator[Deviation]:
    """Losses, and the gradients' norms, summed in float64: float32 loses three digits over the largest layer."""
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
    """Pairs of one each, of the same label, with box IoU over 0.99 and scores within 0.001."""
    overlaps = box_iou(boxes, reference_boxes)
    fits = (overlaps > 0.99) & ((scores[:, None] - reference_scores[None]).abs() <= 1e-3)
    if labels is not None and reference_labels is not None:
        fits &= labels[:, None] == reference_labels[None]
    overlaps = torch.where(fits, overlaps, torch.zeros(()))
    pairs = []
    for i in range(len(boxes)):
        j = int(overlaps[i].argmax()) if len(reference_boxes) else 0
        if len(reference_boxes) and overlaps[i, j] > 0:
            pairs.append((i, j))
            overlaps[:, j] = 0
    return pairs


def unmatched(item: str, matched: int, mine: int, reference: int) -> float:
    share = matched / max(mine, reference, 1)
    assert share >= MATCHED or mine == reference == 0, f"{item}: {matched} of {mine} match the reference's {reference}"
    return 1 - share


def mask_iou(
    one: Mapping[str, Any], other: Mapping[str, Any], wide: Mapping[str, Any], narrow: Mapping[str, Any]
) -> float:
    """Intersection over union of two RLEs without the pixels in `wide` and not in `narrow`; 1 for two empty ones."""
    if one["counts"] == other["counts"]:
        return 1.0
    mine, reference, undecided = (coco_mask.decode(rle).astype(bool) for rle in (one, other, wide))
    decided = ~undecided | coco_mask.decode(narrow).astype(bool)
    union = ((mine | reference) & decided).sum()
    return float((mine & reference & decided).sum() / union) if union else 1.0


def read_rles(stored: list[Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"size": list(size), "counts": one["counts"] if isinstance(one, dict) else one} for one in stored]
