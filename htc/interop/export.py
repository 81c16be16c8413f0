"""Export of our models as MMDetection 3.x checkpoints."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from htc.config.schema import Config, Norm, SemanticFusion, Style
from htc.errors import UserError
from htc.interop.mmdetection_names import their_name
from htc.models.backbone import PYRAMID_STRIDES

logger = logging.getLogger(__name__)
COUNTER = "num_batches_tracked"
"""Buffer in which batch norms count their batches."""


def to_mmdetection(
    state: Mapping[str, Tensor], config: Config, class_names: list[str], unused: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return a checkpoint as MMDetection 3.x saves it: `state_dict`, and `meta` with class names and configuration.

    Args:
        state: the model's state dict, under our names.
        config: the model's configuration.
        class_names: one name per category.
        unused: tensors under MMDetection's names that an import did not use; they are added to the state dict.

    Raises UserError for a model that MMDetection cannot build.
    """
    if config.backbone.norm is Norm.gn:
        raise UserError(
            "backbone.norm=gn cannot be exported: its number of groups varies with the width, which MMDetection's "
            "ResNet cannot express; train with batch norms to export."
        )
    if config.model.rpn.round_anchors:
        logger.warning("MMDetection does not round anchors: its boxes will differ from ours by fractions of a pixel")
    # The names of Mask R-CNN's heads have no stage number.
    numbered_heads = config.model.num_stages > 1 or config.model.semantic
    exported: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in state.items():
        theirs = their_name(name, numbered_heads)
        if theirs is None:
            raise UserError(f"{name} has no counterpart in MMDetection and cannot be exported.")
        exported[theirs] = value
        if theirs.endswith(".running_var") and name.replace("running_var", COUNTER) not in state:
            exported[theirs.replace("running_var", COUNTER)] = torch.zeros((), dtype=torch.int64)
    exported.update(unused)
    meta = {
        "dataset_meta": {"classes": tuple(class_names)},
        "CLASSES": tuple(class_names),
        "cfg": settings_text(config),
    }
    return {"meta": meta, "state_dict": exported}


def settings_text(config: Config) -> str:
    """Return the settings that tensors do not show, as the Python text of an MMDetection 3.x configuration."""
    model, backbone, evaluation = config.model, config.backbone, config.eval
    order = [2, 1, 0] if backbone.bgr else [0, 1, 2]
    roi_head: dict[str, Any] = {}
    if model.semantic or model.mask_flow or model.interleaved:
        roi_head = {"interleaved": model.interleaved, "mask_info_flow": model.mask_flow}
        if model.semantic:
            fusion = {SemanticFusion.box: ("bbox",), SemanticFusion.mask: ("mask",)}
            roi_head["semantic_fusion"] = fusion.get(model.semantic_fusion, ("bbox", "mask"))  # type: ignore[arg-type]
    heads = [{"bbox_coder": {"target_stds": list(stds)}} for stds in model.stage_stds or []]
    for kind, side in (("bbox", 7), ("mask", 14)):
        align = {"sampling_ratio": model.roi_sampling, "aligned": model.roi_aligned}
        roi_head[f"{kind}_roi_extractor"] = {"roi_layer": {"type": "RoIAlign", "output_size": side, **align}}
    roi_head["bbox_head"] = heads if model.num_stages > 1 else heads[0]
    settings = {
        "data_preprocessor": {
            "mean": [backbone.pixel_mean[i] for i in order],
            "std": [backbone.pixel_std[i] for i in order],
            "bgr_to_rgb": not backbone.bgr,
        },
        "backbone": {
            "style": "caffe" if backbone.style is Style.caffe else "pytorch",
            "norm_cfg": {"type": "BN", "requires_grad": True, "eps": backbone.norm_eps},
        },
        "rpn_head": {
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [model.rpn.anchor_scale],
                "ratios": list(model.rpn.anchor_ratios),
                "strides": list(PYRAMID_STRIDES),
            }
        },
        "roi_head": roi_head,
        "test_cfg": {
            "rpn": {
                "nms_pre": model.rpn.test_pre_nms,
                "max_per_img": model.rpn.test_proposals,
                "nms": {"type": "nms", "iou_threshold": model.rpn.nms_iou},
            },
            "rcnn": {
                "score_thr": evaluation.score_threshold,
                "nms": {"type": "nms", "iou_threshold": evaluation.nms_iou},
                "max_per_img": evaluation.max_detections,
                "mask_thr_binary": evaluation.mask_threshold,
            },
        },
    }
    size = (config.data.long_side, config.data.short_side)
    return f"model = {settings!r}\ntest_pipeline = [{{'type': 'Resize', 'scale': {size!r}, 'keep_ratio': True}}]\n"
