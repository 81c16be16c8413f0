"""Our network agrees with every stored variant of the reference, from the image to the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.parity.checks import CHECKS, Deviation
from tests.parity.deviations import PROPERTY
from tests.parity.reference import Comparison


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_agrees_with_the_reference(
    comparison: Comparison,
    check: Callable[[Comparison], Iterator[Deviation]],
    record_property: Callable[[str, object], None],
) -> None:
    for item, deviation in check(comparison):
        record_property(PROPERTY, (comparison.meta["variant"], item, deviation))
