"""How much the property-based tests try.

    HTC_FUZZ=100 python -m pytest tests/robustness/test_fuzz.py tests/data tests/checkpoint tests/test_trained_model.py

tries a hundred times as much, each time something else. Without it the same is tried every time, so that a run of the
tests fails for what was changed and not for what nobody had tried before.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("HTC_FUZZ", "0"))


def fuzz(examples: int) -> settings:
    """Settings of a test that tries so many examples, times HTC_FUZZ; one that takes over 20 seconds hangs."""
    return settings(
        max_examples=examples * max(1, FACTOR),
        deadline=20_000,
        suppress_health_check=list(HealthCheck),
        derandomize=FACTOR == 0,
        database=None,
    )
