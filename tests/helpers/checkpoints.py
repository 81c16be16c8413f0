"""Small checkpoints in the formats of other frameworks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from htc.config.checks import check
from htc.config.finalize import derive
from htc.config.schema import Config, Norm
from htc.interop.mmdetection_names import their_name
from htc.models.detector import Detector
from tests.helpers.tiny import tiny_config, tiny_detector

COUNTER = "num_batches_tracked"
ODD_WEIGHTS = st.lists(st.integers(0, 9), max_size=5).map(torch.zeros) | st.sampled_from(
    [
        torch.ones(8).to_sparse(), torch.ones(8, 4).to_sparse(), torch.ones(8, dtype=torch.complex64),
        torch.empty(8, 4, device="meta"), torch.ones(8, 4, dtype=torch.bool), torch.zeros(()).expand(2**16, 4),
    ]
)  # fmt: skip


@contextmanager
def foreign_module(name: str, *members: type | Callable[..., Any]) -> Iterator[None]:
    """Inside the block, make the members importable from a module that is not installed, so that pickle names it."""
    parts = name.split(".")
    added = [".".join(parts[: i + 1]) for i in range(len(parts)) if ".".join(parts[: i + 1]) not in sys.modules]
    for each in added:
        sys.modules[each] = ModuleType(each)
    for member in members:
        # Since Python 3.13, pickle finds a static method by the module that the function itself names.
        functions = (getattr(value, "__func__", value) for value in vars(member).values())
        for part in (member, *(function for function in functions if isinstance(function, FunctionType))):
            part.__module__ = name
        setattr(sys.modules[name], member.__name__, member)
    try:
        yield
    finally:
        for each in added:
            del sys.modules[each]


def imported_config(**model: Any) -> Config:
    """Return the configuration of a tiny network that MMDetection can express, with batch norms."""
    config = tiny_config(**model)
    config.backbone.norm = Norm.bn
    # More than COCO's 80 categories, with which some of these networks are built.
    config.data.semantic_classes = 100
    check(config)
    derive(config)
    return config


def random_detector(config: Config, num_classes: int = 3, seed: int = 0) -> Detector:
    """Return a detector in which every tensor is random, including batch counters and stored statistics."""
    model = tiny_detector(config, seed, num_classes)
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith(COUNTER):
            value.fill_(int(torch.randint(1, 1000, ())))
        elif name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            value.uniform_(0.5, 1.5)
        else:
            value.add_(torch.randn_like(value) * 0.02)
    return model


def their_state(model: Detector, numbered_heads: bool = True) -> dict[str, Tensor]:
    """Return the model's tensors by MMDetection's names, in another order than ours."""
    named = {their_name(name, numbered_heads): value for name, value in model.state_dict().items()}
    assert None not in named
    return {str(name): named[name] for name in sorted(named, reverse=True, key=str)}


def save(path: Path, content: Any, *, legacy: bool = False) -> Path:
    """Write a file by torch.save, in the zip format or in the legacy format; return its path."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Assert that names, dtypes, shapes and values are equal."""
    assert set(one) == set(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert value.shape == other[name].shape, name
        assert torch.equal(value, other[name]), name
