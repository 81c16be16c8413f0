"""From a composed configuration to a run's: typed, checked, with derived values filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError

from htc.config.schema import BnMode, Config, Norm, Precision, SemanticFusion, SemanticSource
from htc.errors import UserError

# Key -> lowest and highest value; None is no bound. Null values are left alone. Bounds of OPEN are not reached.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "model.num_stages": (1, 5),
    "model.semantic_loss_weight": (0, None),
    "model.roi_sampling": (0, None),
    "model.rois_per_image": (1, None),
    "model.positive_fraction": (0, 1),
    "model.channels": (1, 2**16),
    "model.fc_channels": (1, 2**16),
    "model.logit_std": (0, None),
    "model.mask_convs": (1, 64),
    "model.semantic_convs": (0, 64),
    "model.rpn.anchor_scale": (0.01, None),
    "model.rpn.anchors_per_image": (1, None),
    "model.rpn.positive_fraction": (0, 1),
    "model.rpn.positive_iou": (0, 1),
    "model.rpn.negative_iou": (0, 1),
    "model.rpn.allowed_border": (-1, None),
    "model.rpn.nms_iou": (0, 1),
    "model.rpn.train_pre_nms": (1, None),
    "model.rpn.train_proposals": (1, None),
    "model.rpn.test_pre_nms": (1, None),
    "model.rpn.test_proposals": (1, None),
    "backbone.width": (1, 2**13),
    "backbone.norm_eps": (0, None),
    "backbone.frozen_stages": (-1, 4),
    "data.train.limit": (1, None),
    "data.val.limit": (1, None),
    "data.short_side": (1, 2**14),
    "data.long_side": (1, 2**14),
    "data.flip": (0, 1),
    "data.crowded_limit": (1, None),
    "data.semantic_classes": (1, 255),
    "data.workers": (0, None),
    "data.shapes.train_images": (1, None),
    "data.shapes.val_images": (1, None),
    "data.shapes.image_size": (64, 1024),
    "data.shapes.seed": (0, None),
    "schedule.epochs": (1, None),
    "schedule.iterations": (1, None),
    "schedule.gamma": (0, None),
    "schedule.learning_rate": (0, None),
    "schedule.reference_batch": (1, None),
    "schedule.batch_size": (1, None),
    "schedule.accumulate": (1, None),
    "schedule.momentum": (0, 1),
    "schedule.weight_decay": (0, None),
    "schedule.warmup_iterations": (0, None),
    "schedule.warmup_factor": (0, 1),
    "schedule.clip_norm": (0, None),
    "schedule.ema": (0, 1),
    "schedule.eval_every": (1, None),
    "eval.score_threshold": (0, 1),
    "eval.nms_iou": (0, 1),
    "eval.max_detections": (1, None),
    "eval.mask_threshold": (0, 1),
    "eval.limit": (1, None),
    "save.every": (1, None),
    "save.keep": (1, None),
    "wandb.images": (0, None),
    "seed": (0, 2**31 - 1),
    "threads": (1, None),
    "log_every": (1, None),
}
# A gradient clipped to nothing, an average that never moves, a mask of every pixel: key -> bound and what to do.
OPEN: dict[str, tuple[float, str]] = {
    "schedule.clip_norm": (0, "; null switches clipping off"),
    "schedule.ema": (1, "; null switches the average off"),
    "eval.mask_threshold": (0, ""),
}


def schema_keys(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the schema, nodes included."""
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        key = prefix + item.name
        yield key
        for candidate in (hints[item.name], *get_args(hints[item.name])):
            if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
                yield from schema_keys(candidate, key + ".")


def composed_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a composed configuration, nodes included."""
    for name in map(str, node):
        key = prefix + name
        yield key
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from composed_keys(child, key + ".")


def finalize(composed: DictConfig) -> Config:
    """Turn a composed configuration into typed objects, with derived values filled in and combinations checked.

    Raises UserError, naming the keys, for a missing value or a combination without meaning.
    """
    config = typed(composed)
    check(config)
    derive(config)
    return config


def typed(composed: DictConfig) -> Config:
    """A composed configuration as typed objects, as it stands. Raises UserError for unknown keys, missing values."""
    unknown = sorted(set(composed_keys(composed)) - set(schema_keys()))
    if unknown:
        raise UserError(f"{unknown[0]} is not a key of the configuration; --cfg job shows all keys.")
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} has no value: set it on the command line, as in {missing[0]}=VALUE.")
    # Merged anew, so that a recorded config.yaml, and what references lead to, are typed like what was written out.
    plain = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigTypeError as error:
        # OmegaConf does not say where.
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"a reference ${{...}} leads to a value of another kind than its key takes ({reason})."
        ) from None
    assert isinstance(config, Config)
    return config


def check_ranges(config: Config) -> None:
    """Refuse numbers outside of RANGES. Raises UserError."""
    for key, (low, high) in RANGES.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name, None)
        if value is None:
            continue
        excluded, remedy = OPEN.get(key, (None, ""))
        if (low is None or value >= low) and (high is None or value <= high) and value != excluded:
            continue
        bounds = f"between {low} and {high}" if high is not None else f"{low} or more"
        without = "" if excluded is None else f", {excluded} excluded{remedy}"
        raise UserError(f"{key}={value} is out of range: it must be {bounds}{without}.")


def check(config: Config) -> None:
    """Refuse values out of range and combinations without meaning, before anything starts. Raises UserError."""
    check_ranges(config)
    model, schedule = config.model, config.schedule

    def refuse(condition: bool, sentence: str) -> None:
        if condition:
            raise UserError(sentence)

    refuse(
        model.mask_flow and model.num_stages == 1,
        "model.mask_flow=true has no meaning with model.num_stages=1: mask features flow from one stage to the next; "
        "set model.mask_flow=false or model.num_stages=2 or more.",
    )
    refuse(
        model.semantic_fusion is not None and not model.semantic,
        f"model.semantic_fusion={model.semantic_fusion and model.semantic_fusion.value} has no meaning with "
        "model.semantic=false: there are no semantic features to fuse; set model.semantic=true or "
        "model.semantic_fusion=null.",
    )
    for key in ("stage_loss_weights", "stage_ious", "stage_stds"):
        values = getattr(model, key)
        refuse(
            values is not None and len(values) != model.num_stages,
            f"model.{key} has {len(values or [])} entries but model.num_stages={model.num_stages}: give one a stage, "
            "or null for the defaults.",
        )
    refuse(
        any(len(stds) != 4 or min(stds) <= 0 for stds in model.stage_stds or []),
        f"model.stage_stds={model.stage_stds} must hold four positive numbers a stage.",
    )
    refuse(
        any(not 0 < iou < 1 for iou in model.stage_ious or []),
        f"model.stage_ious={model.stage_ious} must lie between 0 and 1.",
    )
    refuse(
        (schedule.epochs is None) == (schedule.iterations is None),
        f"schedule.epochs={schedule.epochs} and schedule.iterations={schedule.iterations}: set exactly one of them "
        "and the other to null.",
    )
    refuse(
        schedule.epochs is None and any(not 0 < m < 1 for m in schedule.milestones),
        f"schedule.milestones={schedule.milestones} must be fractions between 0 and 1 with schedule.iterations.",
    )
    refuse(
        schedule.batch_size % schedule.accumulate != 0,
        f"schedule.batch_size={schedule.batch_size} must be a multiple of schedule.accumulate={schedule.accumulate}.",
    )
    refuse(
        config.data.semantic_source is SemanticSource.stuff and config.data.train.stuff is None and model.semantic,
        "data.semantic_source=stuff but data.train.stuff is null: name the folder of stuff maps or use "
        "data.semantic_source=instances.",
    )
    backbone = config.backbone
    refuse(
        sorted(set(backbone.deformable_stages)) != backbone.deformable_stages
        or not set(backbone.deformable_stages) <= {1, 2, 3, 4},
        f"backbone.deformable_stages={backbone.deformable_stages} must be stages from 1 to 4 in rising order, such as "
        "[2,3,4] for C3 to C5.",
    )
    refuse(
        len(backbone.pixel_mean) != 3 or len(backbone.pixel_std) != 3 or min(backbone.pixel_std) <= 0,
        f"backbone.pixel_mean={backbone.pixel_mean} and backbone.pixel_std={backbone.pixel_std} must be three numbers "
        "each, of red, green and blue, the second ones positive.",
    )
    refuse(
        backbone.norm is Norm.sync_bn and backbone.bn_mode is BnMode.stored,
        "backbone.norm=sync_bn has no meaning with backbone.bn_mode=stored: there are no statistics of a batch to "
        "share; set backbone.bn_mode=batch or backbone.norm=bn.",
    )
    refuse(
        backbone.norm in (Norm.frozen_bn, Norm.gn) and backbone.bn_mode is BnMode.batch,
        f"backbone.bn_mode=batch has no meaning with backbone.norm={backbone.norm.value}, which takes no statistics of "
        "a batch: set backbone.norm=bn or sync_bn, or backbone.bn_mode=stored.",
    )
    refuse(
        config.checkpoint.partial and config.checkpoint.file is None,
        "checkpoint.partial=true has no meaning without a checkpoint: give checkpoint=FILE.",
    )
    refuse(
        config.precision is Precision.fp16 and config.device == "cpu",
        "precision=fp16 needs a GPU: use precision=bf16 or precision=fp32 with device=cpu.",
    )
    refuse(
        model.rpn.negative_iou > model.rpn.positive_iou,
        f"model.rpn.negative_iou={model.rpn.negative_iou} must not exceed "
        f"model.rpn.positive_iou={model.rpn.positive_iou}.",
    )
    refuse(
        not model.rpn.anchor_ratios or min(model.rpn.anchor_ratios) <= 0,
        f"model.rpn.anchor_ratios={model.rpn.anchor_ratios} must be one or more positive numbers.",
    )


def check_training(config: Config) -> None:
    """Refuse what has no meaning in training alone. Raises UserError."""
    backbone = config.backbone
    if backbone.weights is None and config.checkpoint.file is None and backbone.frozen_stages >= 0:
        raise UserError(
            f"backbone.frozen_stages={backbone.frozen_stages} with backbone.weights=null would keep the stem and the "
            "frozen stages at their random weights: set backbone.frozen_stages=-1 to train from scratch, or give "
            "backbone.weights or checkpoint=FILE."
        )


def stage_defaults(num_stages: int) -> dict[str, Any]:
    """What null stands for in the keys of ModelConfig that have an entry a stage."""
    stages = range(num_stages)
    return {
        "stage_loss_weights": [0.5**t for t in stages],
        "stage_ious": [round(0.5 + 0.1 * t, 6) for t in stages],
        "stage_stds": [[round(s / (t + 1), 3) for s in (0.1, 0.1, 0.2, 0.2)] for t in stages],
    }


def derive(config: Config) -> None:
    """Fill in what null stands for, so that a spelled-out default and a derived one are the same run."""
    model = config.model
    for key, value in stage_defaults(model.num_stages).items():
        if getattr(model, key) is None:
            setattr(model, key, value)
    if model.semantic and model.semantic_fusion is None:
        model.semantic_fusion = SemanticFusion.both
    if config.checkpoint.file is not None:
        config.backbone.weights = None
    if config.name is None:
        config.name = default_name(config)


def default_name(config: Config) -> str:
    """`htc-no_mask_flow-resnet50-coco-seed0`: what a person tells runs apart by; the signature does the rest."""
    model = config.model
    parts = [model.name]
    if model.name == "htc":
        parts += [f"no_{key}" for key in ("interleaved", "mask_flow", "semantic") if not getattr(model, key)]
        if model.semantic_fusion not in (None, SemanticFusion.both):
            parts.append(f"fusion_{model.semantic_fusion.value}")
    return "-".join([*parts, config.backbone.name, config.data.name, f"seed{config.seed}"])
