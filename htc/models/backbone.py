"""ResNet and ResNeXt bodies (arXiv 1512.03385, 1611.05431) with a feature pyramid (arXiv 1612.03144)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from htc.config import BackboneConfig, BnMode, Norm
from htc.errors import UserError
from htc.loading import load_tensors

NormLayer = Callable[[int], nn.Module]

# name -> block, blocks of each stage, groups, width of a group
BODIES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnext101_32x4d": (Bottleneck, (3, 4, 23, 3), 32, 4),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), 64, 4),
}

PYRAMID_STRIDES = (4, 8, 16, 32, 64)


class ResNet(nn.Module):
    """torchvision's residual blocks and state-dict names, at any stem width.

    Images [B, 3, H, W] -> C2..C5 at strides 4, 8, 16, 32.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        *,
        width: int,
        groups: int,
        group_width: int,
        norm: NormLayer,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.out_channels = [width * 2**i * block.expansion for i in range(4)]
        channels = width
        for i, number in enumerate(blocks):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            layers: list[nn.Module] = []
            for j in range(number):
                shortcut = None
                if j == 0 and (stride != 1 or channels != planes * block.expansion):
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, planes * block.expansion, 1, stride=stride, bias=False),
                        norm(planes * block.expansion),
                    )
                step = stride if j == 0 else 1
                layers.append(
                    block(channels, planes, step, shortcut, groups=groups, base_width=group_width, norm_layer=norm)
                )
                channels = planes * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():  # each block starts as the identity (arXiv 1706.02677 section 5.1)
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in self.stages():
            x = stage(x)
            features.append(x)
        return features

    def stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{i}") for i in range(1, 5)]

    def stem(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]


class Backbone(nn.Module):
    """Body and pyramid: normalised images [B, 3, H, W] -> P2..P6, each [B, channels, H / stride, W / stride]."""

    def __init__(self, body: ResNet, channels: int, *, frozen_stages: int, bn_mode: BnMode) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.out_channels, channels, extra_blocks=LastLevelMaxPool())
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        self._stored_statistics = bn_mode is BnMode.stored
        self._frozen = [*body.stem(), *body.stages()[:frozen_stages]] if frozen_stages >= 0 else []
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Frozen stages stay in evaluation mode; so does every batch norm where stored statistics are used."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self._stored_statistics:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        named = OrderedDict((str(i), feature) for i, feature in enumerate(self.body(images)))
        return list(self.fpn(named).values())


def _norm_layer(norm: Norm) -> NormLayer:
    if norm is Norm.frozen_bn:
        return FrozenBatchNorm2d
    if norm is Norm.gn:
        return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)
    return nn.BatchNorm2d if norm is Norm.bn else nn.SyncBatchNorm


def build_backbone(config: BackboneConfig, channels: int) -> Backbone:
    """The backbone of a configuration, with its weights loaded. Raises UserError for an unknown name or weights."""
    if config.name not in BODIES:
        raise UserError(f"backbone.name={config.name} is unknown: choose one of {', '.join(BODIES)}.")
    block, blocks, groups, group_width = BODIES[config.name]
    norm = _norm_layer(config.norm)
    body = ResNet(block, blocks, width=config.width, groups=groups, group_width=group_width, norm=norm)
    if config.weights is not None:
        load_body(body, config)
    return Backbone(body, channels, frozen_stages=config.frozen_stages, bn_mode=config.bn_mode)


def load_body(body: ResNet, config: BackboneConfig) -> None:
    """Load a torchvision classification state dict into the body; its classifier `fc` is left out.

    Raises UserError where weights cannot be had, or do not fit.
    """
    assert config.weights is not None
    state = _imagenet_weights(config) if config.weights == "imagenet" else _read_weights(Path(config.weights))
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = body.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    wrong = sorted((set(own) - counters) ^ (set(state) - {k for k in state if k.endswith("num_batches_tracked")}))
    wrong += sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    if wrong:
        raise UserError(
            f"backbone.weights={config.weights} does not fit backbone.name={config.name} with width {config.width} and "
            f"norm {config.norm.value}: {len(wrong)} tensors are missing, unexpected or of another shape, first "
            f"{', '.join(wrong[:3])}; choose matching weights or backbone.weights=null."
        )
    body.load_state_dict(state, strict=False)


def _imagenet_weights(config: BackboneConfig) -> Mapping[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(config.name)["IMAGENET1K_V1"]
    except (ValueError, KeyError):
        raise UserError(
            f"torchvision has no ImageNet weights for backbone.name={config.name}: give a file, "
            "backbone.weights=FILE, or train from scratch with backbone.weights=null."
        ) from None
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"backbone.weights=imagenet could not be downloaded ({error}): fetch {weights.url} where there is a "
            "network and give it as backbone.weights=FILE, or use backbone.weights=null."
        ) from None


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"backbone.weights={path} is not a file: give a torchvision state dict, imagenet or null.")
    state = load_tensors(path, "backbone.weights")
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone.weights={path} does not hold a state dict of tensors.")
    return state
