"""Settings that are refused before a run starts, with words of the messages."""

from __future__ import annotations

REFUSED = {
    "unknown key": (["model.mask_flw=true"], ["model.mask_flw is not a key", "did you mean model.mask_flow"]),
    "unknown group": (["modle=htc"], ["modle is not a key", "did you mean model"]),
    "key added with a plus": (["+foo=1"], ["foo is not a key of the configuration"]),
    "key forced with two pluses": (["++model.foo=1"], ["model.foo is not a key of the configuration"]),
    "unknown option of a group": (["model=hct"], ["model=hct is not one of cascade_mask_rcnn, htc, mask_rcnn"]),
    "word for a number": (["schedule.batch_size=many"], ["schedule.batch_size", "'many'"]),
    "fraction for a whole number": (["model.num_stages=2.5"], ["model.num_stages", "2.5"]),
    "whole number in a list of lists": (
        ["model.stage_stds=[[1,1,1,1]]"],
        ["model.stage_stds[0]: Value 1 (int)", "write 1.0"],
    ),
    "missing value": (["seed="], ["seed"]),
    "unknown choice": (["model.semantic_fusion=all"], ["model.semantic_fusion", "'all'", "box, mask, both"]),
    "wrong type deep inside": (["data.shapes.image_size=large"], ["data.shapes.image_size", "'large'"]),
    "not of the form KEY=VALUE": (["model.mask_flow"], ["model.mask_flow is not of the form KEY=VALUE"]),
    "data without a folder": (["data=coco"], ["data.root has no value", "data.root=VALUE"]),
    "sweep with an unknown choice": (
        ["-m", "model.mask_flow=true,false", "model.semantic_fusion=all"],
        ["model.semantic_fusion", "'all'", "box, mask, both"],
    ),
    "combination without meaning": (["model.num_stages=1"], ["model.mask_flow=true", "model.num_stages=1"]),
}
"""Arguments of `python -m htc.run` that are mistyped or make no sense, and parts of the message."""

MEANINGLESS = {
    "model.num_stages": ["model.num_stages=0", "model.mask_flow=false"],
    "model.mask_flow=true": ["model.num_stages=1"],
    "model.semantic_fusion=box": ["model.semantic=false", "model.semantic_fusion=box"],
    "model.stage_loss_weights": ["model.stage_loss_weights=[1,0.5]"],
    "model.stage_ious has 1": ["model.stage_ious=[0.5]"],
    "model.stage_ious=.*between": ["model.stage_ious=[0.5,0.6,1.2]"],
    "model.stage_stds=.*four": ["model=mask_rcnn", "model.stage_stds=[[0.1,0.1]]"],
    "model.roi_sampling=-1": ["model.roi_sampling=-1"],
    "model.semantic_loss_weight=-1": ["model.semantic_loss_weight=-1"],
    "backbone.frozen_stages=5": ["backbone.frozen_stages=5"],
    "schedule.epochs=3 and schedule.iterations=": ["schedule.epochs=3"],
    "schedule.epochs=None and schedule.iterations=None": ["schedule.iterations=null"],
    "schedule.iterations=0 is out of range": ["schedule.iterations=0"],
    "schedule.milestones": ["schedule.milestones=[8,11]"],
    "schedule.accumulate=3": ["schedule.batch_size=8", "schedule.accumulate=3"],
    "precision=fp16": ["precision=fp16", "device=cpu"],
    "schedule.clip_norm=0.* 0 excluded; null switches clipping off": ["schedule.clip_norm=0"],
    "schedule.ema=1.* 1 excluded": ["schedule.ema=1"],
    "eval.mask_threshold=0": ["eval.mask_threshold=0"],
    "backbone.norm=sync_bn has no meaning": ["backbone.norm=sync_bn"],
    "backbone.bn_mode=batch has no meaning with backbone.norm=gn": ["backbone.bn_mode=batch"],
    "backbone.bn_mode=batch has no meaning with backbone.norm=frozen_bn": [
        "backbone.norm=frozen_bn",
        "backbone.bn_mode=batch",
    ],
    "data.train.stuff": ["data.semantic_source=stuff", "data.train.stuff=null"],
}
"""Overrides that are well formed and have no meaning together, by a pattern of the message."""
