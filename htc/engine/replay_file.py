"""The file that repeats one training step: written when a step is not finite, read by `htc.replay`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.matching import is_plain
from htc.checkpoint.record import Categories, Weights, is_categories, is_count, is_weights
from htc.checkpoint.safe_loading import load_tensors
from htc.errors import UserError
from htc.runs.files import atomic_path
from htc.runs.json_values import number
from htc.structures import Sample, Targets

VERSION = 1


@dataclass
class ReplayFile:
    """All inputs of one step on one process.

    No random state is among them: each sample carries the seed of its anchors and RoIs.
    """

    config: dict[str, Any]
    """The run's configuration, as config.yaml holds it."""
    categories: Categories
    model: Weights
    """The weights before the step."""
    step: int
    loss_scale: float
    micro_batches: list[list[Sample]]

    def write(self, path: Path) -> Path | None:
        """Write the file and return its path; None where it cannot be written."""
        content = {
            "replay": VERSION,
            "config": self.config,
            "categories": vars(self.categories),
            "model": self.model,
            "step": self.step,
            "loss_scale": self.loss_scale,
            "passes": [[_to_plain(sample) for sample in samples] for samples in self.micro_batches],
        }
        try:
            with atomic_path(path) as temporary:
                torch.save(content, temporary)
        except (OSError, RuntimeError):
            return None
        return path

    @classmethod
    def read(cls, path: Path) -> ReplayFile:
        """Read and check a replay file. Raises UserError, naming the entry, for a file that no run wrote."""
        if not path.is_file():
            raise UserError(f"{path} is not a file: give a file in RUN_DIR/replay.")
        content = load_tensors(path, "replay")
        if not isinstance(content, dict) or not is_count(content.get("replay")) or content["replay"] != VERSION:
            raise UserError(f"{path} is not a replay file: give a file in RUN_DIR/replay.")
        for entry, is_valid in {
            "config": lambda value: isinstance(value, dict),
            "categories": is_categories,
            "model": is_weights,
            "step": is_count,
            "loss_scale": lambda value: number(value) is not None,
            "passes": _are_micro_batches,
        }.items():
            if not is_valid(content.get(entry)):
                raise UserError(f"{path} is damaged: its `{entry}` is not what a run writes; use another file.")
        return cls(
            config=content["config"],
            categories=Categories(content["categories"]["ids"], content["categories"]["names"]),
            model=content["model"],
            step=content["step"],
            loss_scale=content["loss_scale"],
            micro_batches=[[_to_sample(plain) for plain in samples] for samples in content["passes"]],
        )


def _to_plain(sample: Sample) -> dict[str, Any]:
    """Return a sample as nested dicts of tensors and plain values."""
    targets = sample.targets
    return {
        **{item.name: getattr(sample, item.name) for item in fields(sample)},
        "original_size": list(sample.original_size),
        "targets": None if targets is None else {item.name: getattr(targets, item.name) for item in fields(targets)},
    }


def _to_sample(plain: dict[str, Any]) -> Sample:
    """Return the sample of a dict that `_to_plain` returned."""
    height, width = plain["original_size"]
    return Sample(plain["image"], plain["image_id"], (height, width), Targets(**plain["targets"]))


def _are_micro_batches(value: Any) -> bool:
    """Return whether the value is one or more lists of one or more samples, as `_to_plain` writes them."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(samples, list) and samples and all(map(_is_sample, samples)) for samples in value)
    )


def _is_sample(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {item.name for item in fields(Sample)}:
        return False
    image, size, targets = value["image"], value["original_size"], value["targets"]
    return (
        _is_array(image, torch.uint8, 3) and image.shape[0] == 3 and min(image.shape) > 0
        and isinstance(value["image_id"], int)
        and isinstance(size, list) and len(size) == 2 and all(map(is_count, size))
        and isinstance(targets, dict) and set(targets) == {item.name for item in fields(Targets)}
        and _are_targets(targets, image.shape[1:])
    )  # fmt: skip


def _are_targets(value: dict[str, Any], size: torch.Size) -> bool:
    """Return whether the value holds the objects of an image of `size` (height, width)."""
    boxes, labels, masks, semantic = (value[name] for name in ("boxes", "labels", "masks", "semantic"))
    return (
        _is_array(boxes, torch.float32, 2) and _is_array(labels, torch.int64, 1) and _is_array(masks, torch.uint8, 3)
        and boxes.shape == (len(labels), 4) and masks.shape == (len(labels), *size)
        and (semantic is None or (_is_array(semantic, torch.uint8, 2) and semantic.shape == size))
        and is_count(value["seed"])
    )  # fmt: skip


def _is_array(value: Any, dtype: torch.dtype, dimensions: int) -> bool:
    return isinstance(value, Tensor) and is_plain(value) and value.dtype is dtype and value.dim() == dimensions
