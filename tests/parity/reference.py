"""The reference's stored outputs, and our network with the same weights, which the tests of agreement compare.

Each file of outputs describes its own variant (see golden/README.md), so other files can be compared as well.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htc.config.schema import Config
from htc.interop.importer import read_external_checkpoint
from htc.interop.mmdetection_config import roi_head_settings
from htc.models.cascade import ImageFeatures
from htc.models.detector import Detector
from htc.structures import Targets
from htc.trained_model import load_external_model

FOLDER = Path(os.environ.get("HTC_GOLDEN_DIR") or Path(__file__).with_name("golden"))
# The settings with which the files were made. Every candidate is sampled, so that no result is random.
SETTINGS = {
    "model.rpn.anchors_per_image": 1_000_000, "model.rpn.positive_fraction": 1.0,
    "model.rpn.train_pre_nms": 300, "model.rpn.train_proposals": 200,
    "model.rpn.test_pre_nms": 500, "model.rpn.test_proposals": 300,
    "model.rois_per_image": 1_000_000, "model.positive_fraction": 1.0,
}  # fmt: skip
# Our model by the folder of the reference's configuration.
FAMILIES = {"htc": "htc", "cascade_rcnn": "cascade_mask_rcnn", "mask_rcnn": "mask_rcnn"}
SCORE_THRESHOLDS = {"htc": 0.001}
# Overrides of the reference that the importer infers from the tensors.
VISIBLE = {"num_stages", "num_classes", "reg_class_agnostic", "semantic_head", "semantic_roi_extractor", "depth",
           "groups", "base_width", "dcn", "stage_with_dcn", "type", "init_cfg"}  # fmt: skip
ROI_HEAD = {"interleaved", "mask_info_flow", "semantic_fusion", "stage_loss_weights"}


@dataclass
class Inputs:
    images: list[Tensor]
    """[3, h, w] uint8 RGB."""
    targets: list[Targets]
    original_sizes: list[tuple[int, int]]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(image.shape[1], image.shape[2]) for image in self.images]


def variant_files() -> list[Path]:
    """Return the files of outputs in the folder."""
    return sorted(path for path in FOLDER.glob("*.npz") if "meta" in np.load(path).files)


def read_meta(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(str(np.load(path)["meta"]))
    return meta


def is_big(path: Path) -> bool:
    """Return whether the backbone is larger than a ResNet-50."""
    shapes = read_meta(path)["shapes"]
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("backbone.")) > 30_000_000


def read_inputs(folder: Path) -> Inputs:
    stored = np.load(folder / "inputs.npz")
    inputs = Inputs([], [], [])
    for i in range(sum(name.endswith("_bgr") for name in stored.files)):
        inputs.images.append(torch.from_numpy(stored[f"image{i}_bgr"][..., ::-1].transpose(2, 0, 1).copy()))
        shape = stored[f"gt{i}_masks_shape"]
        masks = np.unpackbits(stored[f"gt{i}_masks"], count=int(np.prod(shape))).reshape(shape)
        boxes = torch.from_numpy(stored[f"gt{i}_boxes"]).float()
        labels = torch.from_numpy(stored[f"gt{i}_labels"]).long()
        semantic = torch.from_numpy(stored[f"gt{i}_semantic"].astype(np.uint8))
        inputs.targets.append(Targets(boxes, labels, torch.from_numpy(masks), semantic))
        height, width = stored[f"original{i}_hw"].tolist()
        inputs.original_sizes.append((height, width))
    return inputs


def filled(shapes: Mapping[str, list[int]], seed: int, folder: Path) -> dict[str, Tensor]:
    """Return the weights with which the files were made, under the reference's names."""
    specification = importlib.util.spec_from_file_location("golden_weights", folder / "weights.py")
    assert specification is not None and specification.loader is not None
    weights = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(weights)
    return {name: torch.from_numpy(value) for name, value in weights.fill(shapes, seed).items()}


def overridden(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the RoI head among a variant's overrides, from any depth.

    Raises ValueError for a key that our configuration does not have.
    """
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf in ROI_HEAD:
            found[leaf] = value
        elif isinstance(value, Mapping):
            found |= overridden(value)
        elif leaf not in VISIBLE:
            raise ValueError(f"the reference was run with {key}={value}, which this test cannot set in ours")
    return found


@dataclass(repr=False)
class Comparison:
    """The reference's outputs of one variant, and our network with the same weights."""

    stored: Any
    meta: dict[str, Any]
    model: Detector
    config: Config
    inputs: Inputs

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Build the variant with the importer, like any checkpoint of the reference."""
        stored, meta = np.load(path), read_meta(path)
        imported = read_external_checkpoint({"state_dict": filled(meta["shapes"], meta["seed"], path.parent)}, path)
        family = FAMILIES[meta["config"].split("/")[0]]
        imported.overrides |= {
            **SETTINGS,
            "model": family,
            "eval.score_threshold": SCORE_THRESHOLDS.get(family, 0.05),
            **roi_head_settings(overridden(meta["overrides"])),
        }
        trained = load_external_model(imported, str(path), [], partial=False)
        return cls(stored, meta, trained.model.eval(), trained.config, read_inputs(path.parent))

    @cached_property
    def pyramid(self) -> list[Tensor]:
        self.model.eval()
        with torch.no_grad():
            levels: list[Tensor] = self.model.backbone(self.model.batch(self.inputs.images))
        return levels

    @cached_property
    def semantic(self) -> tuple[Tensor, Tensor] | None:
        with torch.no_grad():
            return None if self.model.semantic is None else self.model.semantic(self.pyramid)

    @cached_property
    def image_features(self) -> ImageFeatures:
        return ImageFeatures(self.pyramid, self.semantic[1] if self.semantic else None, self.inputs.sizes)

    def reference(self, name: str) -> Tensor:
        """Return a stored output."""
        return torch.from_numpy(np.asarray(self.stored[name]))

    def names(self, prefix: str) -> Iterator[str]:
        """Return the names of stored outputs that begin with the prefix."""
        return (name for name in self.stored.files if name.startswith(prefix))
