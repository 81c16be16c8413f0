"""The typed schema of every key in conf/.

`--help` and `--cfg` read this file, so nothing heavy is imported here. Every field is a key that a user may set; any
other key is refused by name. A field states its range and what it can change with `setting`.
`htc.config.finalize` replaces null (`None`) where a value is derived from others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass(frozen=True)
class Range:
    """The values that a number may have; null values are not checked."""

    low: float | None = None
    high: float | None = None
    excluded: float | None = None
    """A bound that the number must not reach."""
    remedy: str = ""
    """Appended to the message about the excluded bound."""


class Affects(Enum):
    """What the value of a key can change. Only keys that affect training are part of a run's signature."""

    training = "training"
    """The trained weights."""
    evaluation = "evaluation"
    """The results of an evaluation, and not the weights."""
    nothing = "nothing"
    """Neither: logging, placement, names."""


class PathKind(Enum):
    """What a path is relative to."""

    working_folder = "working_folder"
    data_root = "data_root"
    run = "run"
    """The name of a run's folder in the folder of all runs."""


def setting(
    default: Any = NO_DEFAULT,
    *,
    factory: Callable[[], Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    excluded: float | None = None,
    remedy: str = "",
    affects: Affects = Affects.training,
    path: PathKind | None = None,
) -> Any:
    """Declare a key of the schema.

    Args:
        default: value of the key where the user sets none.
        factory: makes the default, for mutable values.
        low: smallest value allowed, for numbers.
        high: largest value allowed.
        excluded: a bound that must not be reached.
        remedy: what to do instead of setting the excluded value, appended to the message.
        affects: what the key can change; for a node, it holds for all keys below it.
        path: how a value that is a path is brought to one form for the signature.
    """
    metadata = {
        "range": Range(low, high, excluded, remedy),
        "affects": affects,
        "path": path,
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


class Norm(Enum):
    """Normalisation of the backbone. `frozen_bn` keeps statistics and affine parameters fixed."""

    frozen_bn = "frozen_bn"
    bn = "bn"
    sync_bn = "sync_bn"
    gn = "gn"


class Style(Enum):
    """Where a bottleneck halves the resolution: in its 3x3 convolution (torchvision), or in its first 1x1 (Caffe)."""

    pytorch = "pytorch"
    caffe = "caffe"


class BnMode(Enum):
    """The statistics that a batch norm uses in training: the batch's, or the stored ones (the paper's setting)."""

    batch = "batch"
    stored = "stored"


class BoxLoss(Enum):
    """Loss of the box deltas."""

    smooth_l1 = "smooth_l1"
    l1 = "l1"


class SemanticFusion(Enum):
    """The heads that receive the semantic features."""

    box = "box"
    mask = "mask"
    both = "both"


class SemanticSource(Enum):
    """Source of the semantic targets: stuff maps, instance masks, or stuff maps where the data set has them."""

    auto = "auto"
    stuff = "stuff"
    instances = "instances"


class ShapesDifficulty(Enum):
    """What the images of the built-in data look like."""

    standard = "standard"
    hard = "hard"


class OnBadImage(Enum):
    """What happens when an image cannot be read during training: the run stops, or another image replaces it."""

    error = "error"
    skip = "skip"


class MaskStages(Enum):
    """The stages whose masks make the prediction: the mean over all stages (the paper), or the last stage."""

    average = "average"
    last = "last"


class EvalEngine(Enum):
    """What computes precision and recall: the quickest package that is installed and equal, or pycocotools alone."""

    auto = "auto"
    pycocotools = "pycocotools"


class Optimizer(Enum):
    """Stochastic gradient descent with momentum (the paper), or AdamW (learns faster from random weights)."""

    sgd = "sgd"
    adamw = "adamw"


class Precision(Enum):
    """Number format of the forward pass."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class WandbMode(Enum):
    """Where wandb sends what it logs."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class BackboneConfig:
    """A ResNet or ResNeXt of torchvision with a feature pyramid on top."""

    name: str = MISSING
    width: int = setting(64, low=1, high=2**13)
    """Channels of the stem; the stages have width x 1, 2, 4, 8 (x 4 for bottlenecks)."""
    norm: Norm = Norm.bn
    norm_eps: float = setting(1e-5, low=0)
    """Added to the variance before the square root."""
    bn_mode: BnMode = BnMode.stored
    frozen_stages: int = setting(1, low=-1, high=4)
    """The stem and the first N stages (0..4) are not trained; -1 trains everything, the stem included."""
    weights: str | None = setting("imagenet", path=PathKind.working_folder)
    """`imagenet` (torchvision's weights API), a file of a torchvision state dict, or null for random weights; not read
    where `checkpoint.file` provides the weights."""
    style: Style = Style.pytorch
    deformable_stages: list[int] = field(default_factory=list)
    """Stages (1..4) whose 3x3 convolutions are deformable (arXiv 1703.06211); C3 to C5 are [2, 3, 4]."""
    pixel_mean: list[float] = field(default_factory=lambda: [123.675, 116.28, 103.53])
    """Mean of red, green and blue, 0..255."""
    pixel_std: list[float] = field(default_factory=lambda: [58.395, 57.12, 57.375])
    """Standard deviation of red, green and blue, 0..255."""
    bgr: bool = False
    """The first convolution takes blue first (weights converted from Caffe)."""


@dataclass
class RPNConfig:
    """The region proposal network (Faster R-CNN section 3.1, on FPN)."""

    anchor_scale: float = setting(8.0, low=0.01)
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    round_anchors: bool = False
    """Round anchors to whole pixels (torchvision)."""
    anchors_per_image: int = setting(256, low=1)
    positive_fraction: float = setting(0.5, low=0, high=1)
    positive_iou: float = setting(0.7, low=0, high=1)
    negative_iou: float = setting(0.3, low=0, high=1)
    allowed_border: int = setting(0, low=-1)
    """Anchors further outside the image than this (pixels) are not trained on; -1 keeps all."""
    nms_iou: float = setting(0.7, low=0, high=1)
    train_pre_nms: int = setting(2000, low=1)
    train_proposals: int = setting(2000, low=1)
    test_pre_nms: int = setting(1000, low=1)
    test_proposals: int = setting(1000, low=1)


@dataclass
class ModelConfig:
    """The cascade: `mask_rcnn`, `cascade_mask_rcnn` and `htc` are settings of these keys."""

    name: str = MISSING
    interleaved: bool = False
    mask_flow: bool = False
    semantic: bool = False
    semantic_fusion: SemanticFusion | None = None
    """null: both heads where the semantic branch is on."""
    semantic_loss_weight: float = setting(0.2, low=0)
    """beta of the paper's equation 7."""
    num_stages: int = setting(3, low=1, high=5)
    stage_loss_weights: list[float] | None = None
    """alpha_t; null: 1, 0.5, 0.25 and so on, halved from stage to stage."""
    stage_ious: list[float] | None = None
    """IoU threshold of each stage; null: 0.5, 0.6, 0.7 and so on."""
    stage_stds: list[list[float]] | None = None
    """Standard deviations of the box deltas of each stage; null: (0.1, 0.1, 0.2, 0.2) / stage, to three decimals."""
    class_agnostic: bool = True
    box_loss: BoxLoss = BoxLoss.smooth_l1
    """Loss of box regression, in the RPN (beta 1/9) and in the box heads (beta 1)."""
    low_quality_matches: bool = False
    """Each object also gets the proposal that overlaps it most, if their IoU reaches the threshold, even where that
    proposal overlaps another object more (RoIs of Mask R-CNN in the reference)."""
    roi_sampling: int = setting(0, low=0)
    """Sampling points per side of each RoIAlign cell; 0: one per pixel of the cell (the reference)."""
    roi_aligned: bool = True
    """Shift RoIAlign by half a pixel (the reference); torchvision's Mask R-CNN does not."""
    rois_per_image: int = setting(512, low=1)
    positive_fraction: float = setting(0.25, low=0, high=1)
    channels: int = setting(256, low=1, high=2**16)
    """Width of the pyramid and of every convolution of the heads."""
    fc_channels: int = setting(1024, low=1, high=2**16)
    logit_std: float | None = setting(None, low=0)
    """Standard deviation of the initial weights of mask and semantic logits; null: He by fan-out (the reference), whose
    first loss is far from ln(classes) where channels or classes are few."""
    mask_convs: int = setting(4, low=1, high=64)
    semantic_convs: int = setting(4, low=0, high=64)
    rpn: RPNConfig = field(default_factory=RPNConfig)


@dataclass
class SplitConfig:
    """One split of a data set, with paths relative to `data.root`."""

    images: str = setting(MISSING, path=PathKind.data_root)
    annotations: str = setting(MISSING, path=PathKind.data_root)
    stuff: str | None = setting(None, path=PathKind.data_root)
    """Folder of stuff maps (one PNG per image, same stem); null or a missing folder: none."""
    limit: int | None = setting(None, low=1)
    """Use only the first N annotated images, by id; null: all."""


def coco_split(split: str) -> SplitConfig:
    """Return the paths of a split in the layout of COCO 2017."""
    return SplitConfig(split, f"annotations/instances_{split}.json", f"stuffthingmaps/{split}")


@dataclass
class ShapesConfig:
    """Parameters of the built-in data. Any change makes another data set next to the old one."""

    train_images: int = setting(2000, low=1)
    val_images: int = setting(200, low=1, affects=Affects.evaluation)
    """Each image depends on the seed, the image size and its id alone, so the training images stay the same."""
    image_size: int = setting(128, low=64, high=1024)
    seed: int = setting(0, low=0)
    difficulty: ShapesDifficulty = ShapesDifficulty.standard
    """hard: thin and overlapping things of one color, and many that only the background tells from texture."""


@dataclass
class DataConfig:
    """The data set, and how its images reach the network."""

    name: str = MISSING
    root: str = setting(MISSING, path=PathKind.working_folder)
    """Folder of the data; environment variables in it are resolved where the run starts."""
    train: SplitConfig = field(default_factory=lambda: coco_split("train2017"))
    val: SplitConfig = setting(factory=lambda: coco_split("val2017"), affects=Affects.evaluation)
    short_side: int = setting(800, low=1, high=2**14)
    long_side: int = setting(1333, low=1, high=2**14)
    flip: float = setting(0.5, low=0, high=1)
    """Probability of a horizontal flip in training."""
    crowded_limit: int | None = setting(None, low=1)
    """Largest number of objects per training image, picked at random (saves memory); null: all."""
    skip_empty: bool = True
    """Leave images without any usable object out of training."""
    group_by_aspect: bool = True
    semantic_source: SemanticSource = SemanticSource.auto
    semantic_classes: int = setting(183, low=1, high=255)
    """Semantic logits. COCO: 183 as in the reference; targets from instances alone use 1 + number of categories."""
    workers: int = setting(2, low=0, affects=Affects.nothing)
    on_bad_image: OnBadImage = setting(OnBadImage.error, affects=Affects.nothing)
    """`skip` replaces an unreadable training image by one that its seeded index determines, and counts it in the log.
    Not in the signature: a run that stopped at such an image continues with `skip`, and a run that meets none is the
    same with either."""
    shapes: ShapesConfig | None = None


@dataclass
class ScheduleConfig:
    """Optimisation: SGD with momentum by default, linear warm-up and step decay."""

    optimizer: Optimizer = Optimizer.sgd
    epochs: int | None = setting(None, low=1)
    """Length of training in epochs; set either this or `iterations`."""
    iterations: int | None = setting(None, low=1)
    """Length of training in optimiser steps; set either this or `epochs`."""
    milestones: list[float] = field(default_factory=list)
    """Where the learning rate drops: in epochs if `epochs` is set, else as fractions of `iterations`."""
    gamma: float = setting(0.1, low=0)
    learning_rate: float = setting(0.02, low=0)
    """For `reference_batch` images per step; scaled in proportion to `batch_size`."""
    reference_batch: int = setting(16, low=1)
    batch_size: int = setting(16, low=1)
    """Images per step, over all processes and accumulated micro-batches together."""
    accumulate: int = setting(1, low=1)
    """Micro-batches per step: each process sees batch_size / processes / accumulate images at a time."""
    momentum: float = setting(0.9, low=0, high=1)
    weight_decay: float = setting(1e-4, low=0)
    warmup_iterations: int = setting(500, low=0)
    warmup_factor: float = setting(0.001, low=0, high=1)
    clip_norm: float | None = setting(None, low=0, excluded=0, remedy="; null switches clipping off")
    ema: float | None = setting(None, low=0, high=1, excluded=1, remedy="; null switches the average off")
    """Decay of a moving average of the weights, which is evaluated in their place; null: the weights themselves."""
    eval_every: int | None = setting(None, low=1, affects=Affects.nothing)
    """Evaluate every N epochs (or iterations); null: once, at the end."""


@dataclass
class EvalConfig:
    """Inference settings of the evaluation."""

    name: str = "default"
    """Name of these settings, as each file of conf/eval sets it; results are in evaluations/NAME of the run."""
    score_threshold: float = setting(0.05, low=0, high=1)
    nms_iou: float = setting(0.5, low=0, high=1)
    max_detections: int = setting(100, low=1)
    mask_threshold: float = setting(0.5, low=0, high=1, excluded=0)
    mask_stages: MaskStages = MaskStages.average
    limit: int | None = setting(None, low=1)
    """Use only the first N validation images; null: all."""
    engine: EvalEngine = EvalEngine.auto


@dataclass
class CheckpointConfig:
    """Weights to start from. `checkpoint=FILE` is short for `checkpoint.file=FILE`."""

    file: str | None = setting(None, path=PathKind.working_folder)
    """A checkpoint of this project, of MMDetection 2.x or 3.x, or torchvision's Mask R-CNN."""
    partial: bool = False
    """Load what matches by name and shape and leave the rest as initialised: fine-tuning with other classes."""


@dataclass
class SaveConfig:
    """When checkpoints are written and how many are kept."""

    every: int = setting(1000, low=1)
    """Save every N iterations, and at the end of each epoch."""
    keep: int = setting(2, low=1)


@dataclass
class WandbConfig:
    """Tracking by wandb."""

    mode: WandbMode | None = None
    """null: online where the user is logged in, else disabled."""
    project: str = "htc"
    entity: str | None = None
    images: int = setting(4, low=0)
    """Number of validation images whose predicted masks are shown."""


@dataclass
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    eval: EvalConfig = setting(factory=EvalConfig, affects=Affects.evaluation)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    continue_from: str | None = setting(None, path=PathKind.run)
    """A finished run whose training goes on with another schedule: its name, the beginning of it, or its signature.
    `continue=RUN` is short for `continue_from=RUN`."""
    save: SaveConfig = setting(factory=SaveConfig, affects=Affects.nothing)
    wandb: WandbConfig = setting(factory=WandbConfig, affects=Affects.nothing)
    seed: int = setting(0, low=0, high=2**31 - 1)
    name: str | None = setting(None, affects=Affects.nothing)
    """Name of the run; null: from the model, its switches, the backbone and the data."""
    sweep: str | None = setting(None, affects=Affects.nothing)
    """Name of the sweep that selects the run, and of wandb's group; null: none."""
    runs: str = setting("runs", affects=Affects.nothing)
    """Folder of all runs."""
    force: bool = setting(False, affects=Affects.nothing)
    """Run a finished configuration again, in a folder next to the old one."""
    device: str = setting("auto", affects=Affects.nothing)
    precision: Precision = Precision.fp32
    channels_last: bool = False
    deterministic: bool = False
    threads: int | None = setting(None, low=1, affects=Affects.nothing)
    """CPU threads of PyTorch; null: PyTorch's default."""
    log_every: int = setting(20, low=1, affects=Affects.nothing)
    progress: bool = setting(True, affects=Affects.nothing)


def stage_defaults(num_stages: int) -> dict[str, Any]:
    """Return the defaults of the keys of ModelConfig with one entry per stage."""
    stages = range(num_stages)
    return {
        "stage_loss_weights": [0.5**t for t in stages],
        "stage_ious": [round(0.5 + 0.1 * t, 6) for t in stages],
        "stage_stds": [[round(s / (t + 1), 3) for s in (0.1, 0.1, 0.2, 0.2)] for t in stages],
    }


@cache
def schema_fields() -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    """Return every dotted key of the schema, nodes included, with its field."""
    return tuple(_fields_below(Config, ""))


def _fields_below(node: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    hints = get_type_hints(node)
    for item in dataclasses.fields(node):
        key = prefix + item.name
        yield key, item
        for candidate in (hints[item.name], *get_args(hints[item.name])):
            if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
                yield from _fields_below(candidate, key + ".")


def schema_keys() -> Iterator[str]:
    """Yield every dotted key of the schema, nodes included."""
    return (key for key, _ in schema_fields())


def register() -> None:
    """Register the schema with Hydra under the name that conf/config.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)
