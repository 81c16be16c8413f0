"""Initial weights of a backbone's body from an ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torchvision
from torch import Tensor, nn

from htc.checkpoint.matching import compare
from htc.checkpoint.safe_loading import load_tensors
from htc.config.paths import expand_path
from htc.config.schema import BackboneConfig
from htc.errors import UserError


def load_body(body: nn.Module, config: BackboneConfig) -> None:
    """Load the weights that `config.weights` names into the body: a torchvision classifier without its layer `fc`.

    Raises UserError if the weights cannot be downloaded or read, or do not fit the body.
    """
    assert config.weights is not None
    state = _imagenet_weights(config) if config.weights == "imagenet" else _read_weights(config.weights)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    # A classifier has no offsets of deformable convolutions; they keep their initial zeros.
    body_state = {key: value for key, value in body.state_dict().items() if "conv_offset" not in key}
    mismatch = compare(body_state, state)
    if mismatch:
        raise UserError(
            f"backbone.weights={config.weights} does not fit backbone.name={config.name} with width {config.width} and "
            f"norm {config.norm.value}: {mismatch.description()}; choose matching weights, or train from scratch with "
            "backbone.weights=null backbone.frozen_stages=-1."
        )
    body.load_state_dict(state, strict=False)


def _imagenet_weights(config: BackboneConfig) -> Mapping[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(config.name)["IMAGENET1K_V1"]
    except (ValueError, KeyError):
        raise UserError(
            f"torchvision has no ImageNet weights for backbone.name={config.name}: give a file, "
            "backbone.weights=FILE, or train from scratch with backbone.weights=null backbone.frozen_stages=-1."
        ) from None
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"backbone.weights=imagenet could not be downloaded ({error}): fetch {weights.url} on a machine with a "
            "network connection and give the file as backbone.weights=FILE, or train from scratch with "
            "backbone.weights=null backbone.frozen_stages=-1."
        ) from None


def _read_weights(name: str) -> Mapping[str, Tensor]:
    path = Path(expand_path(name, "backbone.weights"))
    if not path.is_file():
        raise UserError(f"backbone.weights={path} is not a file: give a torchvision state dict, imagenet or null.")
    state = load_tensors(path, "backbone.weights")
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone.weights={path} does not hold a state dict of tensors.")
    return state
