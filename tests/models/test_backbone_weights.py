"""Initial weights of the backbone: matching files are loaded, others are refused in one sentence and never executed."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from htc.config.schema import BackboneConfig, Norm
from htc.errors import UserError
from htc.models.backbone import build_backbone

RESNET18 = BackboneConfig(name="resnet18", frozen_stages=-1)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = torchvision.models.resnet18(num_classes=2).state_dict()
    return state


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def refusal(path: Path, **changes: Any) -> str:
    """Return the message of the UserError that a weights file raises."""
    with pytest.raises(UserError) as caught:
        build_backbone(dataclasses.replace(RESNET18, weights=str(path), **changes), 8)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("wrapped", [False, True])
def test_file_of_torchvision_weights_is_loaded(tmp_path: Path, weights: dict[str, torch.Tensor], wrapped: bool) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save({"state_dict": weights, "epoch": 3} if wrapped else weights, path)
    body = build_backbone(dataclasses.replace(RESNET18, weights=str(path)), 8).body
    for name, value in body.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_frozen_batch_norm_loads_the_same_file(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(weights, path)
    body = build_backbone(dataclasses.replace(RESNET18, weights=str(path), norm=Norm.frozen_bn), 8).body
    assert torch.equal(body.state_dict()["layer4.1.bn2.running_var"], weights["layer4.1.bn2.running_var"])


@pytest.mark.parametrize("changes", [{"name": "resnet50"}, {"width": 32}, {"norm": Norm.gn}])
def test_weights_of_another_network_are_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], changes: dict[str, Any]
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(weights, path)
    assert "does not fit" in refusal(path, **changes)


def test_incomplete_weights_are_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "part.pth"
    torch.save({key: value for key, value in weights.items() if key != "conv1.weight"}, path)
    assert "conv1.weight" in refusal(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "not a file" in refusal(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_file_that_torch_save_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    assert "could not be read" in refusal(path)


@pytest.mark.parametrize("value", [[1, 2], {"conv1.weight": 3}, torch.zeros(3)])
def test_file_without_a_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "odd.pth"
    torch.save(value, path)
    assert "does not hold a state dict" in refusal(path)


@pytest.mark.parametrize("bare", [False, True])
def test_code_in_a_weights_file_is_not_executed(tmp_path: Path, weights: dict[str, torch.Tensor], bare: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "executed"
    content = {**weights, "conv1.weight": Malicious(trace)}
    if bare:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    assert "unpickling it would run" in refusal(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if not bare else pickle.loads(path.read_bytes())
    assert trace.exists(), "the file is harmless, so the assertions above prove nothing"


def test_backbone_without_imagenet_weights_in_torchvision_is_refused() -> None:
    with pytest.raises(UserError, match=r"no ImageNet weights for backbone\.name=resnext101_32x4d.*weights=null"):
        build_backbone(BackboneConfig(name="resnext101_32x4d", weights="imagenet"), 8)
