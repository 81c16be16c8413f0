"""What tests of several folders share."""

from __future__ import annotations

import os
import time

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, here and in what the tests start: workers are the parallelism.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from htc.config.schema import DataConfig, ShapesConfig
from htc.data.shapes.generate import ensure_shapes

MINUTES = os.environ.get("HTC_TEST_MINUTES")
"""Slow tests begin within so many minutes, and are skipped after; unset: there is no limit."""
START = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come last, of each file where files are shared out; of them crashes and agreement come first."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")] + slow[::-1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if MINUTES and item.get_closest_marker("slow") and time.monotonic() - START > 60 * float(MINUTES):
        pytest.skip(f"the {MINUTES} minutes of HTC_TEST_MINUTES are over")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The built-in data, eight small images to train on and four to evaluate on."""
    config = DataConfig(
        name="shapes", root=str(tmp_path_factory.mktemp("tiny_shapes")), short_side=64, long_side=96,
        semantic_classes=16, workers=0, shapes=ShapesConfig(train_images=8, val_images=4, image_size=64),
    )  # fmt: skip
    return ensure_shapes(config)
