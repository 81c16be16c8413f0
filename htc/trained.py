"""A trained model and what it was trained as, from a run folder or a checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from htc.cli import recorded_config
from htc.config import Config
from htc.engine.checkpoint import load_newest, read_checkpoint
from htc.errors import UserError
from htc.models.detector import Detector, build_detector


@dataclass
class Trained:
    """A model with its weights, on the CPU."""

    model: Detector
    config: Config
    category_ids: list[int]
    """COCO's category id of each class index."""
    category_names: list[str]
    step: int


def load_trained(arguments: dict[str, str], overrides: list[str]) -> Trained:
    """The model that `run=RUN_DIR` or `checkpoint=FILE` names, its configuration changed by KEY=VALUE overrides.

    Raises UserError unless exactly one of the two is given and can be read.
    """
    if ("run" in arguments) == ("checkpoint" in arguments):
        raise UserError("give one of run=RUN_DIR and checkpoint=FILE: the model to use.")
    state = _newest(Path(arguments["run"])) if "run" in arguments else read_checkpoint(Path(arguments["checkpoint"]))
    config = recorded_config(state["config"], overrides)
    config.backbone.weights = None
    categories = state["categories"]
    model = build_detector(config, len(categories["ids"]))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the weights do not fit the configuration (overrides {overrides}): {reason}") from None
    return Trained(model, config, list(categories["ids"]), list(categories["names"]), state["step"])


def _newest(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise UserError(f"run={run} is not a folder: give a run's folder, such as runs/single/NAME-SIGNATURE.")
    found = load_newest(run / "checkpoints")
    if found is None:
        raise UserError(f"run={run} holds no undamaged checkpoint: train it first, or give checkpoint=FILE.")
    return found[1]


def place(model: Detector, config: Config, device: torch.device) -> Detector:
    """The model on its device, in evaluation mode and in the configured memory format."""
    model = model.to(device).eval()
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload]
