"""The typed schema of everything in conf/, and the signature of a run.

Nothing heavy is imported here: `--help` and `--cfg` read this file and must stay quick. Every field of the schema is
a key that a user may set; one that is not here is refused by name. `None` (null) means "derive it":
`htc.config.finalize.finalize` does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


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
    """Which statistics a batch norm uses while training: the batch's, or the stored ones (the paper's setting)."""

    batch = "batch"
    stored = "stored"


class BoxLoss(Enum):
    smooth_l1 = "smooth_l1"
    l1 = "l1"


class SemanticFusion(Enum):
    """Which heads receive the semantic features."""

    box = "box"
    mask = "mask"
    both = "both"


class SemanticSource(Enum):
    """Where semantic targets come from: stuff maps, instance masks, or stuff maps where the data set has them."""

    auto = "auto"
    stuff = "stuff"
    instances = "instances"


class OnBadImage(Enum):
    """What an image that cannot be read in the middle of training does: stop the run, or be replaced by another."""

    error = "error"
    skip = "skip"


class MaskStages(Enum):
    """Which stages' masks make the prediction: the mean over all (the paper) or the last one's."""

    average = "average"
    last = "last"


class Optimizer(Enum):
    """Stochastic gradient descent with momentum (the paper), or AdamW (learns sooner from random weights)."""

    sgd = "sgd"
    adamw = "adamw"


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class WandbMode(Enum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class BackboneConfig:
    """A ResNet or ResNeXt of torchvision with a feature pyramid on top."""

    name: str = MISSING
    width: int = 64
    """Channels of the stem; the stages have width x 1, 2, 4, 8 (x 4 for bottlenecks)."""
    norm: Norm = Norm.bn
    norm_eps: float = 1e-5
    """Added to the variance before its root."""
    bn_mode: BnMode = BnMode.stored
    frozen_stages: int = 1
    """The stem and this many stages (0..4) are not trained; -1 trains everything, the stem included."""
    weights: str | None = "imagenet"
    """`imagenet` (torchvision's weights API), a file of a torchvision state dict, or null for random weights; not read
    where `checkpoint.file` brings the weights."""
    style: Style = Style.pytorch
    deformable_stages: list[int] = field(default_factory=list)
    """Stages (1..4) whose 3x3 convolutions are deformable (arXiv 1703.06211); C3 to C5 are [2, 3, 4]."""
    pixel_mean: list[float] = field(default_factory=lambda: [123.675, 116.28, 103.53])
    """Of red, green and blue, 0..255."""
    pixel_std: list[float] = field(default_factory=lambda: [58.395, 57.12, 57.375])
    bgr: bool = False
    """The body's first convolution takes blue first (weights that come from Caffe)."""


@dataclass
class RPNConfig:
    """The region proposal network (Faster R-CNN section 3.1, on FPN)."""

    anchor_scale: float = 8.0
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    round_anchors: bool = False
    """Round anchors to whole pixels (torchvision)."""
    anchors_per_image: int = 256
    positive_fraction: float = 0.5
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    allowed_border: int = 0
    """Anchors further outside the image than this (pixels) are not trained on; -1 keeps all."""
    nms_iou: float = 0.7
    train_pre_nms: int = 2000
    train_proposals: int = 2000
    test_pre_nms: int = 1000
    test_proposals: int = 1000


@dataclass
class ModelConfig:
    """The cascade: `mask_rcnn`, `cascade_mask_rcnn` and `htc` are settings of these keys."""

    name: str = MISSING
    interleaved: bool = False
    mask_flow: bool = False
    semantic: bool = False
    semantic_fusion: SemanticFusion | None = None
    """null: both heads where the branch is on."""
    semantic_loss_weight: float = 0.2
    """beta of the paper's equation 7."""
    num_stages: int = 3
    stage_loss_weights: list[float] | None = None
    """alpha_t; null: 1, 0.5, 0.25, halving on."""
    stage_ious: list[float] | None = None
    """IoU threshold of each stage; null: 0.5, 0.6, 0.7, rising on."""
    stage_stds: list[list[float]] | None = None
    """Standard deviations of the box deltas of each stage; null: (0.1, 0.1, 0.2, 0.2) / stage, to three decimals."""
    class_agnostic: bool = True
    box_loss: BoxLoss = BoxLoss.smooth_l1
    """Loss of box regression, in the RPN (beta 1/9) and in the box heads (beta 1)."""
    low_quality_matches: bool = False
    """A proposal that overlaps an object most of all, by the IoU threshold at least, goes to that object even where it
    overlaps another one more (Mask R-CNN's RoIs in the reference)."""
    roi_sampling: int = 0
    """Sampling points a side of each RoIAlign cell; 0: as many as the cell has pixels (the reference's)."""
    roi_aligned: bool = True
    """Shift RoIAlign by half a pixel (the reference); torchvision's Mask R-CNN does not."""
    rois_per_image: int = 512
    positive_fraction: float = 0.25
    channels: int = 256
    """Width of the pyramid and of every convolution of the heads."""
    fc_channels: int = 1024
    logit_std: float | None = None
    """Standard deviation of the first weights of mask and semantic logits; null: He by fan-out (the reference), which
    starts far from ln(classes) where channels or classes are few."""
    mask_convs: int = 4
    semantic_convs: int = 4
    rpn: RPNConfig = field(default_factory=RPNConfig)


@dataclass
class SplitConfig:
    """One split of a data set, paths relative to `data.root`."""

    images: str = MISSING
    annotations: str = MISSING
    stuff: str | None = None
    """Folder of stuff maps (one PNG an image, same stem); null or a missing folder: none."""
    limit: int | None = None
    """Only the first so many annotated images, by id; null: all."""


def coco_split(split: str) -> SplitConfig:
    """The layout of COCO 2017."""
    return SplitConfig(split, f"annotations/instances_{split}.json", f"stuffthingmaps/{split}")


@dataclass
class ShapesConfig:
    """The built-in data: how it is generated. Changing any of it makes another data set beside the old."""

    train_images: int = 2000
    val_images: int = 200
    image_size: int = 128
    seed: int = 0


@dataclass
class DataConfig:
    name: str = MISSING
    root: str = MISSING
    train: SplitConfig = field(default_factory=lambda: coco_split("train2017"))
    val: SplitConfig = field(default_factory=lambda: coco_split("val2017"))
    short_side: int = 800
    long_side: int = 1333
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    crowded_limit: int | None = None
    """At most so many objects of one training image, picked at random (memory); null: all."""
    skip_empty: bool = True
    """Leave images without a single usable object out of training."""
    group_by_aspect: bool = True
    semantic_source: SemanticSource = SemanticSource.auto
    semantic_classes: int = 183
    """Semantic logits. COCO: 183 as the reference; targets of instances alone use 1 + number of categories."""
    workers: int = 2
    on_bad_image: OnBadImage = OnBadImage.error
    """`skip` replaces an unreadable training image by one that follows from the draw, and counts it in the log. Not in
    the signature: a run that stopped at such an image goes on with `skip`, and without one both are the same."""
    shapes: ShapesConfig | None = None


@dataclass
class ScheduleConfig:
    """Optimisation: SGD with momentum unless asked otherwise, linear warm-up and steps."""

    optimizer: Optimizer = Optimizer.sgd
    epochs: int | None = None
    iterations: int | None = None
    """Set one of the two."""
    milestones: list[float] = field(default_factory=list)
    """Where the rate drops: epochs if `epochs` is set, fractions of `iterations` otherwise."""
    gamma: float = 0.1
    learning_rate: float = 0.02
    """For `reference_batch` images a step; scaled in proportion to `batch_size`."""
    reference_batch: int = 16
    batch_size: int = 16
    """Images a step, over all processes and accumulated passes together."""
    accumulate: int = 1
    """Passes a step: each process sees batch_size / processes / accumulate images at a time."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_iterations: int = 500
    warmup_factor: float = 0.001
    clip_norm: float | None = None
    ema: float | None = None
    """Decay of a moving average of the weights, which is evaluated in their place; null: the weights themselves."""
    eval_every: int | None = None
    """Evaluate every so many epochs (or iterations); null: once, at the end."""


@dataclass
class EvalConfig:
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    mask_threshold: float = 0.5
    mask_stages: MaskStages = MaskStages.average
    limit: int | None = None
    """Only the first so many validation images; null: all."""


@dataclass
class CheckpointConfig:
    """Weights to start from. `checkpoint=FILE` is short for `checkpoint.file=FILE`."""

    file: str | None = None
    """A checkpoint of this project, of MMDetection 2.x or 3.x, or torchvision's Mask R-CNN."""
    partial: bool = False
    """Load what fits by name and shape and leave the rest as initialised: fine-tuning with other classes."""


@dataclass
class SaveConfig:
    every: int = 1000
    """Save every so many iterations, and at each epoch's end."""
    keep: int = 2


@dataclass
class WandbConfig:
    mode: WandbMode | None = None
    """null: online where the user is logged in, else disabled."""
    project: str = "htc"
    entity: str | None = None
    images: int = 4
    """Validation images whose predicted masks are shown."""


@dataclass
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    name: str | None = None
    """Name of the run; null: from the model, its switches, the backbone and the data."""
    sweep: str = "single"
    """The folder under `runs`, and wandb's group."""
    runs: str = "runs"
    force: bool = False
    """Run a finished signature anew, in a folder beside the old."""
    device: str = "auto"
    precision: Precision = Precision.fp32
    channels_last: bool = False
    deterministic: bool = False
    threads: int | None = None
    """CPU threads of PyTorch; null: its own choice."""
    log_every: int = 20
    progress: bool = True


# What cannot change a result, as dotted prefixes: left out of the signature.
NOT_IN_SIGNATURE = (
    "name", "sweep", "runs", "force", "device", "threads", "log_every", "progress", "wandb", "save", "data.workers",
    "data.on_bad_image", "schedule.eval_every",
)  # fmt: skip


def register() -> None:
    """Make the schema known to Hydra under the name that conf/config.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_plain(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts of plain values, as config.yaml holds it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value

    return plain(dataclasses.asdict(config))


def value_at(plain: Any, key: str) -> Any:
    """The value of a dotted key in a plain configuration. Raises KeyError where there is none."""
    for name in key.split("."):
        plain = plain[name]
    return plain


def signature(config: Config) -> str:
    """Eight hex digits that name the result: a hash of the configuration without what cannot change it."""

    def strip(node: Any, prefix: str) -> Any:
        if not isinstance(node, dict):
            return node
        paths = {k: f"{prefix}.{k}" if prefix else k for k in node}
        return {k: strip(v, paths[k]) for k, v in node.items() if paths[k] not in NOT_IN_SIGNATURE}

    canonical = json.dumps(strip(to_plain(config), ""), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
