"""Property-based tests: how many examples they try, and values to put into files.

    HTC_FUZZ=100 python -m pytest tests/robustness/test_fuzz.py tests/data tests/checkpoint tests/test_trained_model.py

tries a hundred times as many examples, different ones in each run. Without HTC_FUZZ, the examples are the same in each
run, so that a failing test points to a change of the code.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("HTC_FUZZ", "0"))
TEXT = st.text(max_size=8)
NUMBERS = st.integers() | st.floats() | st.booleans()
VALUES = st.recursive(
    st.none() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ODD_TENSORS = st.sampled_from(
    [
        torch.zeros(()), torch.zeros(0), torch.ones(3, 2), torch.full((8,), torch.nan), torch.ones(8).to_sparse(),
        torch.ones(8, dtype=torch.complex64), torch.ones(8, dtype=torch.int64), torch.empty(8, device="meta"),
        torch.ones(8, dtype=torch.bool),
    ]
)  # fmt: skip
ANYTHING = st.none() | NUMBERS | TEXT | VALUES | ODD_TENSORS


def fuzz(examples: int) -> settings:
    """Return settings for `examples` examples, times HTC_FUZZ; one that takes over 20 seconds fails as hanging."""
    return settings(
        max_examples=examples * max(1, FACTOR),
        deadline=20_000,
        suppress_health_check=list(HealthCheck),
        derandomize=FACTOR == 0,
        database=None,
    )


def is_sentence(text: str) -> bool:
    """Return whether a text can be a message: one line, and not a traceback."""
    return bool(text.strip()) and "\n" not in text and "Traceback" not in text


def damage(content: Any, path: list[int], value: Any) -> None:
    """Put `value` into nested dicts, at the place to which `path` leads: the number of an item for each level."""
    for depth, index in enumerate(path):
        if not isinstance(content, dict) or not content:
            return
        key = sorted(content, key=str)[index % len(content)]
        if depth == len(path) - 1 or not isinstance(content[key], dict):
            content[key] = value
            return
        content = content[key]
