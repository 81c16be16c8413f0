"""What tests of several folders share."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before PyTorch is imported, here and in the processes that tests start: the workers share out the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from htc.config.schema import DataConfig, ShapesConfig
from htc.data.shapes.generate import ensure_shapes

LONGEST_FILES = ("test_processes.py", "test_reference.py", "test_run.py", "test_sweeps.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all workers end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The built-in data: eight small images to train on and four to evaluate on."""
    config = DataConfig(
        name="shapes", root=str(tmp_path_factory.mktemp("tiny_shapes")), short_side=64, long_side=96,
        semantic_classes=16, workers=0, shapes=ShapesConfig(train_images=8, val_images=4, image_size=64),
    )  # fmt: skip
    return ensure_shapes(config)
