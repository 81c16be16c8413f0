"""Import of torchvision's `maskrcnn_resnet50_fpn` as our Mask R-CNN."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from htc.checkpoint.matching import is_plain
from htc.errors import UserError
from htc.interop.coco_categories import coco_ids

NAMES = {
    r"backbone\.body\.(.+)": r"backbone.body.\1",
    r"backbone\.fpn\.(inner_blocks|layer_blocks)\.(\d)\.(?:0\.)?(weight|bias)": r"backbone.fpn.\1.\2.0.\3",
    r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)": r"rpn.conv.\1",
    r"rpn\.head\.cls_logits\.(weight|bias)": r"rpn.objectness.\1",
    r"rpn\.head\.bbox_pred\.(weight|bias)": r"rpn.deltas.\1",
    r"roi_heads\.box_head\.fc6\.(weight|bias)": r"cascade.box_heads.0.fc1.\1",
    r"roi_heads\.box_head\.fc7\.(weight|bias)": r"cascade.box_heads.0.fc2.\1",
    r"roi_heads\.box_predictor\.cls_score\.(weight|bias)": r"cascade.box_heads.0.logits.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)": r"cascade.box_heads.0.deltas.\1",
    r"roi_heads\.mask_head\.(\d)\.0\.(weight|bias)": r"cascade.mask_branch.heads.0.convs.\1.0.\2",
    r"roi_heads\.mask_predictor\.conv5_mask\.(weight|bias)": r"cascade.mask_branch.heads.0.upsample.\1",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.(weight|bias)": r"cascade.mask_branch.heads.0.logits.\1",
}
"""Our names by torchvision's; optional parts (`0.`) are those of version 0.13 and later."""
EARLY_MASK_CONV = re.compile(r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)")
"""Names of the mask convolutions before version 0.13."""

TORCHVISION_SETTINGS = {
    "backbone.norm": "frozen_bn",
    # torchvision's COCO weights were converted from batch norms without epsilon.
    "backbone.norm_eps": 0.0,
    "model.roi_aligned": False,
    "model.roi_sampling": 2,
    "model.rpn.round_anchors": True,
}
"""Settings in which torchvision's Mask R-CNN differs from MMDetection's."""


def from_torchvision(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the state dict under our names, with background as the last class and without COCO's unused category ids.

    Raises UserError, naming `source`, for another architecture (such as `maskrcnn_resnet50_fpn_v2`), and for tensors
    whose rows cannot be classes.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        our_name = _our_name(name)
        if our_name is None or our_name in ours:
            unknown.append(name)
        else:
            ours[our_name] = _classes_in_our_order(our_name, value, f"{source} has a {name}")
    if unknown:
        raise UserError(
            f"{source} has the names of torchvision but not the layers of maskrcnn_resnet50_fpn: {len(unknown)} "
            f"tensors have no counterpart here, such as {', '.join(sorted(unknown)[:3])} (the v2 model, for example, "
            "has normalised heads); give a checkpoint of maskrcnn_resnet50_fpn."
        )
    return ours


def _our_name(name: str) -> str | None:
    """Return our name of a torchvision tensor, or None if we have no such tensor."""
    name = EARLY_MASK_CONV.sub(lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}", name)
    for pattern, ours in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def _classes_in_our_order(name: str, value: Tensor, subject: str) -> Tensor:
    """Reorder the rows of a class output; return other tensors unchanged.

    torchvision's first class is the background, and its COCO classes are the category ids up to 90. `subject` is the
    beginning of the error message.
    """
    per_class = 4 if ".box_heads.0.deltas." in name else 1
    if not re.search(r"\.(box_heads|heads)\.0\.(logits|deltas)\.", name):
        return value
    if not is_plain(value) or value.dim() == 0 or len(value) < 2 * per_class or len(value) % per_class:
        raise UserError(
            f"{subject} that does not hold {per_class} rows of plain numbers per class: give an undamaged file."
        )
    classes = len(value) // per_class
    kept = coco_ids() if classes == 91 else list(range(1, classes))
    if name.startswith("cascade.box_heads.0.logits."):
        kept = [*kept, 0]
    rows = value.reshape(classes, per_class, *value.shape[1:])[torch.tensor(kept)]
    return rows.flatten(0, 1)
