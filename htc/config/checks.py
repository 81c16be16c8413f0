"""Checks of values and of their combinations, before anything starts."""

from __future__ import annotations

import re
from typing import Any

from htc.config.schema import (
    BackboneConfig,
    BnMode,
    Config,
    ModelConfig,
    Norm,
    Precision,
    ScheduleConfig,
    SemanticSource,
    WandbConfig,
    schema_fields,
)
from htc.errors import UserError


def check_ranges(config: Config) -> None:
    """Raise UserError where a number is outside the range that the schema gives for its key."""
    for key, item in schema_fields():
        if (allowed := item.metadata.get("range")) is None:
            continue
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name, None)
        if value is None or not isinstance(value, int | float):
            continue
        low, high, excluded = allowed.low, allowed.high, allowed.excluded
        if (low is None or value >= low) and (high is None or value <= high) and value != excluded:
            continue
        bounds = f"between {low} and {high}" if high is not None else f"{low} or more"
        without = "" if excluded is None else f", {excluded} excluded{allowed.remedy}"
        raise UserError(f"{key}={value} is out of range: it must be {bounds}{without}.")


def check(config: Config) -> None:
    """Raise UserError for values out of range and for combinations of values without meaning."""
    check_ranges(config)
    _check_model(config.model)
    _check_schedule(config.schedule)
    _check_backbone(config.backbone)
    refuse_if(
        config.data.semantic_source is SemanticSource.stuff
        and config.data.train.stuff is None
        and config.model.semantic,
        "data.semantic_source=stuff but data.train.stuff is null: name the folder of stuff maps or use "
        "data.semantic_source=instances.",
    )
    refuse_if(
        config.checkpoint.partial and config.checkpoint.file is None,
        "checkpoint.partial=true has no meaning without a checkpoint: give checkpoint=FILE.",
    )
    check_wandb(config.wandb)
    refuse_if(
        config.sweep is not None and not re.fullmatch(r"[^/\0.][^/\0]*", config.sweep),
        f"sweep={config.sweep} cannot be the name of a folder: leave out slashes, and a dot at the start.",
    )
    refuse_if(
        config.precision is Precision.fp16 and config.device == "cpu",
        "precision=fp16 needs a GPU: use precision=bf16 or precision=fp32 with device=cpu.",
    )


def check_wandb(wandb: WandbConfig) -> None:
    """Raise UserError for a project that wandb refuses; `wandb.project=ENTITY/PROJECT` is allowed."""
    entity, slash, project = wandb.project.rpartition("/")
    refuse_if(
        bool(slash) and ("/" in entity or not entity or wandb.entity not in (None, entity)),
        f"wandb.project={wandb.project} with wandb.entity={wandb.entity}: write wandb.project=ENTITY/PROJECT, or both "
        "keys without a slash.",
    )
    refuse_if(
        not project or len(project) > 128 or any(character in "\\#?%:" for character in project),
        f"wandb.project={wandb.project} is refused by wandb: use up to 128 characters, and none of \\ # ? % :.",
    )


def check_training(config: Config) -> None:
    """Raise UserError for settings that have no meaning in training, although an evaluation can use them."""
    backbone = config.backbone
    refuse_if(
        backbone.weights is None and config.checkpoint.file is None and backbone.frozen_stages >= 0,
        f"backbone.frozen_stages={backbone.frozen_stages} with backbone.weights=null would keep the stem and the "
        "frozen stages at their random weights: set backbone.frozen_stages=-1 to train from scratch, or give "
        "backbone.weights or checkpoint=FILE.",
    )


def refuse_if(condition: bool, message: str) -> None:
    """Raise UserError with the message where the condition holds."""
    if condition:
        raise UserError(message)


def _check_model(model: ModelConfig) -> None:
    refuse_if(
        model.mask_flow and model.num_stages == 1,
        "model.mask_flow=true has no meaning with model.num_stages=1: mask features flow from one stage to the next; "
        "set model.mask_flow=false or model.num_stages=2 or more.",
    )
    refuse_if(
        model.semantic_fusion is not None and not model.semantic,
        f"model.semantic_fusion={model.semantic_fusion and model.semantic_fusion.value} has no meaning with "
        "model.semantic=false: there are no semantic features to fuse; set model.semantic=true or "
        "model.semantic_fusion=null.",
    )
    for key in ("stage_loss_weights", "stage_ious", "stage_stds"):
        values = getattr(model, key)
        refuse_if(
            values is not None and len(values) != model.num_stages,
            f"model.{key} has {len(values or [])} entries but model.num_stages={model.num_stages}: give one per stage, "
            "or null for the defaults.",
        )
    refuse_if(
        any(len(stds) != 4 or min(stds) <= 0 for stds in model.stage_stds or []),
        f"model.stage_stds={model.stage_stds} must hold four positive numbers per stage.",
    )
    refuse_if(
        any(not 0 < iou < 1 for iou in model.stage_ious or []),
        f"model.stage_ious={model.stage_ious} must be between 0 and 1.",
    )
    rpn = model.rpn
    refuse_if(
        rpn.negative_iou > rpn.positive_iou,
        f"model.rpn.negative_iou={rpn.negative_iou} must not exceed model.rpn.positive_iou={rpn.positive_iou}.",
    )
    refuse_if(
        not rpn.anchor_ratios or min(rpn.anchor_ratios) <= 0,
        f"model.rpn.anchor_ratios={rpn.anchor_ratios} must be one or more positive numbers.",
    )


def _check_schedule(schedule: ScheduleConfig) -> None:
    refuse_if(
        (schedule.epochs is None) == (schedule.iterations is None),
        f"schedule.epochs={schedule.epochs} and schedule.iterations={schedule.iterations}: set exactly one of them "
        "and the other to null.",
    )
    refuse_if(
        schedule.epochs is None and any(not 0 < milestone < 1 for milestone in schedule.milestones),
        f"schedule.milestones={schedule.milestones} must be fractions between 0 and 1 with schedule.iterations.",
    )
    refuse_if(
        schedule.batch_size % schedule.accumulate != 0,
        f"schedule.batch_size={schedule.batch_size} must be a multiple of schedule.accumulate={schedule.accumulate}.",
    )


def _check_backbone(backbone: BackboneConfig) -> None:
    refuse_if(
        sorted(set(backbone.deformable_stages)) != backbone.deformable_stages
        or not set(backbone.deformable_stages) <= {1, 2, 3, 4},
        f"backbone.deformable_stages={backbone.deformable_stages} must be stages from 1 to 4 in ascending order, such "
        "as [2,3,4] for C3 to C5.",
    )
    refuse_if(
        len(backbone.pixel_mean) != 3 or len(backbone.pixel_std) != 3 or min(backbone.pixel_std) <= 0,
        f"backbone.pixel_mean={backbone.pixel_mean} and backbone.pixel_std={backbone.pixel_std} must be three numbers "
        "each, of red, green and blue, and the standard deviations positive.",
    )
    refuse_if(
        backbone.norm is Norm.sync_bn and backbone.bn_mode is BnMode.stored,
        "backbone.norm=sync_bn has no meaning with backbone.bn_mode=stored: there are no batch statistics to share; "
        "set backbone.bn_mode=batch or backbone.norm=bn.",
    )
    refuse_if(
        backbone.norm in (Norm.frozen_bn, Norm.gn) and backbone.bn_mode is BnMode.batch,
        f"backbone.bn_mode=batch has no meaning with backbone.norm={backbone.norm.value}, which uses no batch "
        "statistics: set backbone.norm=bn or sync_bn, or backbone.bn_mode=stored.",
    )
