"""What tests of several folders share."""

from __future__ import annotations

import pytest

from htc.config import DataConfig, ShapesConfig
from htc.data.shapes import ensure_shapes


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The built-in data, eight small images to train on and four to evaluate on."""
    config = DataConfig(
        name="shapes", root=str(tmp_path_factory.mktemp("tiny_shapes")), short_side=64, long_side=96,
        semantic_classes=16, workers=0, shapes=ShapesConfig(train_images=8, val_images=4, image_size=64),
    )  # fmt: skip
    return ensure_shapes(config)
