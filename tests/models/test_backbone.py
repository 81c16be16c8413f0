"""Backbones: equal to torchvision's, at any width, with frozen stages and batch norms as configured."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from htc.config.schema import BackboneConfig, BnMode, Norm
from htc.errors import UserError
from htc.models.backbone import Backbone, build_backbone
from htc.models.detector import Detector
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector

TINY = BackboneConfig(name="resnet18", width=8, weights=None, frozen_stages=-1)


def tiny_backbone(**changes: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(dataclasses.replace(TINY, **changes), 8)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "resnext101_64x4d"])
def test_parameters_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = build_backbone(BackboneConfig(name=name, weights=None), 256).body
        theirs = torchvision.models.get_model(name)
    expected = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected


def test_resnext101_32x4d_is_torchvisions_resnet_with_other_groups() -> None:
    with torch.device("meta"):
        ours = build_backbone(BackboneConfig(name="resnext101_32x4d", weights=None), 256).body
        theirs = torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4
        )
    expected = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected


def test_features_equal_torchvisions_with_the_same_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    ours = build_backbone(dataclasses.replace(TINY, width=64), 8).eval()
    ours.body.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    layers = IntermediateLayerGetter(theirs, {f"layer{i}": f"layer{i}" for i in range(1, 5)})
    with torch.no_grad():
        for own, reference in zip(ours.body(images()), layers(images()).values(), strict=True):
            assert torch.equal(own, reference)


def test_pyramid_has_five_levels_at_strides_4_to_64() -> None:
    levels = tiny_backbone()(torch.zeros(2, 3, 128, 192))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


@pytest.mark.parametrize("norm", list(Norm))
def test_every_normalisation_builds_and_runs(norm: Norm) -> None:
    backbone = tiny_backbone(norm=norm, bn_mode=BnMode.batch).train()
    sum(level.mean() for level in backbone(images())).backward()  # type: ignore[union-attr]
    backbone.eval()
    assert all(level.isfinite().all() for level in backbone(images()))
    trained_norms = [
        name for name, parameter in backbone.body.named_parameters() if "bn" in name and parameter.requires_grad
    ]
    assert bool(trained_norms) == (norm is not Norm.frozen_bn)


def batch_norm_statistics(backbone: Backbone) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in backbone.body.named_buffers() if "running" in name}


def test_stored_statistics_do_not_change_in_training() -> None:
    backbone = tiny_backbone(norm=Norm.bn, bn_mode=BnMode.stored).train()
    before = batch_norm_statistics(backbone)
    alone, together = backbone(images()[:1])[0], backbone(images())[0]
    assert before and all(torch.equal(value, before[name]) for name, value in batch_norm_statistics(backbone).items())
    torch.testing.assert_close(alone[0], together[0], msg="an image's features depend on its batch")


def test_batch_statistics_are_updated_only_in_stages_that_are_not_frozen() -> None:
    backbone = tiny_backbone(norm=Norm.bn, bn_mode=BnMode.batch, frozen_stages=1).train()
    before = batch_norm_statistics(backbone)
    backbone(images())
    changed = {name for name, value in batch_norm_statistics(backbone).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("layer2", "layer3", "layer4"))}


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_stages_are_not_trained_and_the_others_are(frozen: int) -> None:
    config = tiny_config()
    config.backbone.frozen_stages = frozen
    model = tiny_detector(config).train()
    # Residual blocks start as the identity, with zero weights in their last norm: no gradient would reach their layers.
    for module in model.backbone.body.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
    changed = parts_that_change(model)
    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert changed == set(stages[frozen + 1 :])


def parts_that_change(model: Detector) -> set[str]:
    """Return the parts of the body (stem, layer1..layer4) that one step of the optimiser changes."""
    body = model.backbone.body
    before = {name: parameter.detach().clone() for name, parameter in body.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    sum(model(*tiny_batch()).values(), start=torch.zeros(())).backward()
    optimizer.step()
    changed = {name for name, parameter in body.named_parameters() if not torch.equal(parameter, before[name])}
    return {name.split(".")[0] if name.startswith("layer") else "stem" for name in changed}


def test_unknown_backbone_is_refused_with_the_known_names() -> None:
    with pytest.raises(UserError, match=r"backbone\.name=resnet19 .*resnet18.*resnext101_64x4d"):
        build_backbone(BackboneConfig(name="resnet19", weights=None), 8)
