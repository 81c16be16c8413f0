"""ResNet and ResNeXt bodies (arXiv 1512.03385, 1611.05431) with a feature pyramid (arXiv 1612.03144)."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import DeformConv2d, FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from htc.config.schema import BackboneConfig, BnMode, Norm, Style
from htc.errors import UserError
from htc.models.imagenet import load_body

NormLayer = Callable[[int], nn.Module]

BODIES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnext101_32x4d": (Bottleneck, (3, 4, 23, 3), 32, 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), 64, 4),
}
"""Bodies by name: type of the blocks, blocks per stage, groups, and channels per group."""

PYRAMID_STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the network input per cell of P2 to P6."""


class DeformableConv(DeformConv2d):
    """A 3x3 convolution whose sampling points are shifted by the offsets of `conv_offset` (arXiv 1703.06211).

    The offsets are zero at first, so it starts as an ordinary convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Replace `conv`, with the same channels, groups, stride and padding."""
        stride, padding = conv.stride[0], conv.padding[0]
        super().__init__(
            conv.in_channels, conv.out_channels, 3, stride=stride, padding=padding, groups=conv.groups, bias=False
        )
        # A vertical and a horizontal offset for each of the nine sampling points, shared by all channels.
        self.conv_offset = nn.Conv2d(conv.in_channels, 2 * 9, 3, stride=stride, padding=padding)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve features [B, C, H, W] to [B, C', H / stride, W / stride].

        The dtype of the result is that of the weights, also under autocast.
        """
        dtype = self.weight.dtype
        return super().forward(input.to(dtype), self.conv_offset(input).to(dtype))


class ResNet(nn.Module):
    """ResNet or ResNeXt body of torchvision's residual blocks, with its state-dict names, at any stem width.

    Normalised images [B, 3, H, W] -> C2..C5, each [B, out_channels, H / stride, W / stride], at strides 4, 8, 16, 32.
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
        style: Style = Style.pytorch,
        deformable_stages: Sequence[int] = (),
    ) -> None:
        """Build the body with random weights.

        Args:
            block: type of the residual blocks.
            blocks: blocks per stage.
            width: channels of the stem (64 in torchvision).
            groups: groups of the 3x3 convolutions of bottlenecks.
            group_width: channels per group, at a stem width of 64.
            norm: makes a normalisation layer for a number of channels.
            style: which convolution of a bottleneck has the stride.
            deformable_stages: stages (1..4) whose bottlenecks get deformable 3x3 convolutions.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.out_channels = [width * 2**i * block.expansion for i in range(4)]
        channels = width
        for i, num_blocks in enumerate(blocks):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            layers: list[nn.Module] = []
            for j in range(num_blocks):
                shortcut = None
                if j == 0 and (stride != 1 or channels != planes * block.expansion):
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, planes * block.expansion, 1, stride=stride, bias=False),
                        norm(planes * block.expansion),
                    )
                layers.append(
                    block(
                        channels,
                        planes,
                        stride if j == 0 else 1,
                        shortcut,
                        groups=groups,
                        base_width=group_width,
                        norm_layer=norm,
                    )
                )
                channels = planes * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        if style is Style.caffe:
            self._move_strides_to_first_convs()
        self._initialise()
        for i in deformable_stages:
            self._make_deformable(self.get_submodule(f"layer{i}"))

    def _move_strides_to_first_convs(self) -> None:
        """Move the stride of each bottleneck from its 3x3 convolution to its first 1x1 convolution."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride

    @staticmethod
    def _make_deformable(stage: nn.Module) -> None:
        """Replace the 3x3 convolutions of the stage's bottlenecks by deformable ones."""
        for module in stage.modules():
            if isinstance(module, Bottleneck):
                module.conv2 = DeformableConv(module.conv2)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Each residual block starts as the identity (arXiv 1706.02677 section 5.1).
        for module in self.modules():
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
        """Return the four stages, whose outputs are C2 to C5."""
        return [self.get_submodule(f"layer{i}") for i in range(1, 5)]

    def stem(self) -> list[nn.Module]:
        """Return the modules of the stem that have parameters."""
        return [self.conv1, self.bn1]


class Backbone(nn.Module):
    """Body and pyramid: normalised images [B, 3, H, W] -> P2..P6, each [B, channels, H / stride, W / stride].

    P6 is P5 subsampled by 2.

    Args:
        body: the network that returns C2 to C5.
        channels: channels of every level of the pyramid.
        frozen_stages: the stem and this many stages are not trained; -1 trains all.
        bn_mode: the statistics that batch norms of the body use in training.
    """

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
        """Set the mode, but keep frozen stages in evaluation mode, and with `BnMode.stored` all batch norms too."""
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


def _norm_layer(norm: Norm, eps: float) -> NormLayer:
    if norm is Norm.gn:
        return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels, eps)
    layers = {Norm.frozen_bn: FrozenBatchNorm2d, Norm.bn: nn.BatchNorm2d, Norm.sync_bn: nn.SyncBatchNorm}
    return functools.partial(layers[norm], eps=eps)


def build_backbone(config: BackboneConfig, channels: int) -> Backbone:
    """Build the backbone of a configuration with `channels` pyramid channels, and load the weights of its body.

    Raises UserError for an unknown name, a setting that the body cannot have, or weights that cannot be loaded.
    """
    if config.name not in BODIES:
        raise UserError(f"backbone.name={config.name} is unknown: choose one of {', '.join(BODIES)}.")
    block, blocks, groups, group_width = BODIES[config.name]
    norm = _norm_layer(config.norm, config.norm_eps)
    if block is BasicBlock and (config.deformable_stages or config.style is Style.caffe):
        raise UserError(
            f"backbone.deformable_stages={config.deformable_stages} and backbone.style={config.style.value} are for "
            f"bottlenecks, which backbone.name={config.name} does not have: use resnet50 or a deeper one."
        )
    body = ResNet(
        block,
        blocks,
        width=config.width,
        groups=groups,
        group_width=group_width,
        norm=norm,
        style=config.style,
        deformable_stages=config.deformable_stages,
    )
    if config.weights is not None:
        load_body(body, config)
    return Backbone(body, channels, frozen_stages=config.frozen_stages, bn_mode=config.bn_mode)
