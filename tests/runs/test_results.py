"""The results of a run in words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from htc.runs.results import ap_summary

COMPLETE = {"bbox": {"AP": 0.3123, "AP50": 0.5}, "segm": {"AP": 0.2846}}


def test_summary_shows_ap_of_boxes_and_masks_in_percent() -> None:
    assert ap_summary(COMPLETE) == "box AP 31.2, mask AP 28.5"


@pytest.mark.parametrize(("value", "shown"), [(0, "0.0"), (0.0, "0.0"), (1, "100.0"), (0.12345, "12.3")])
def test_numbers_are_shown_in_percent_with_one_decimal(value: float, shown: str) -> None:
    assert ap_summary({**COMPLETE, "segm": {"AP": value}}) == f"box AP 31.2, mask AP {shown}"


@pytest.mark.parametrize(
    "damaged", [None, "x", 7, [], {}, {"AP": None}, {"AP": "0.3"}, {"AP": [0.3]}, {"AP": True}, {"AP": math.nan},
                {"AP": math.inf}],
)  # fmt: skip
def test_missing_or_damaged_value_is_a_dash(damaged: Any) -> None:
    assert ap_summary({**COMPLETE, "segm": damaged}) == "box AP 31.2, mask AP -"
    assert ap_summary({**COMPLETE, "bbox": damaged}) == "box AP -, mask AP 28.5"


def test_empty_results_have_no_values() -> None:
    assert ap_summary({}) == "box AP -, mask AP -"
