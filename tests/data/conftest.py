"""Small data sets in COCO layout: a hand-made one, the built-in one, and images of COCO if they are available."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from htc.config.schema import DataConfig, ShapesConfig, SplitConfig
from htc.data.shapes.generate import ensure_shapes
from tests.helpers.hand_made import Folder, hand_made


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return hand_made(tmp_path)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("shapes")
    config = DataConfig(
        name="shapes", root=str(root), short_side=192, long_side=256, semantic_classes=16, workers=0,
        shapes=ShapesConfig(train_images=60, val_images=6),
    )  # fmt: skip
    return ensure_shapes(config)


@pytest.fixture(scope="session")
def coco_tiny() -> DataConfig:
    """Return the configuration of 160 images of COCO 2017, or of those in the folder HTC_COCO_TINY."""
    default = Path(__file__).parents[2].parent / "shared" / "data" / "coco_tiny"
    root = Path(os.environ.get("HTC_COCO_TINY", default))
    if not (root / "annotations").is_dir():
        pytest.skip(f"no real COCO images at {root}: set HTC_COCO_TINY to a folder with some in COCO layout")
    train = SplitConfig(images="train2017", annotations="annotations/instances_train2017.json")
    val = SplitConfig(images="val2017", annotations="annotations/instances_val2017.json")
    return DataConfig(name="coco", root=str(root), train=train, val=val, short_side=400, long_side=666, workers=0)
