"""The record of a run: what is written is read back, and damage leaves the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from htc.runs.record import Failure, Launch, Length, Resume, RunRecord, SplitFingerprint, Training

RECORD = RunRecord(
    name="htc", signature="0123abcd", status="failed", error="the disk is full",
    start="2025-01-01T10:00:00+00:00", end="2025-01-01T11:00:00+00:00", command="python -m htc.run", host="n1",
    devices=["CPU"], versions={"python": "3.11.7"}, git={"commit": None, "dirty": None, "diff": None},
    identity={"model.name": "htc", "seed": 3}, data={"train": SplitFingerprint("ab", 9, "cd", None)},
    evaluated_data={"data.val.limit": 5}, training=Training(10, 3.5, 20, 1, 100.5, 0),
    slurm_job_ids=["7_1"], resumes=[Resume("2025-01-01T10:30:00+00:00", 20, "n2", "7_1")],
    launch=Launch(
        "now", "slurm", "2025-01-01T09:00:00+00:00", "/code", Length(None, 750, 4),
        [Failure("2025-01-01T10:20:00+00:00", "killed by SIGKILL", 20, "now", "7_1")], None,
    ),
    other={"added_by_another_tool": [1]},
)  # fmt: skip


def test_record_is_read_as_it_was_written() -> None:
    assert RunRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_file_has_flat_keys_and_keeps_unknown_ones() -> None:
    content = RECORD.to_json()
    assert "other" not in content and content["added_by_another_tool"] == [1]
    assert content["launch"]["length"] == {"epochs": None, "iterations": 750, "batch_size": 4}


@pytest.mark.parametrize("damage", [None, 7, "text", [1], {"a": 1}, True])
@pytest.mark.parametrize("key", sorted(RECORD.to_json()))
def test_damaged_value_leaves_all_others(key: str, damage: Any) -> None:
    content = {**RECORD.to_json(), key: damage}
    read = RunRecord.from_json(content).to_json()
    assert {name: read[name] for name in read if name != key} == {
        name: content[name] for name in content if name != key
    }


@pytest.mark.parametrize("value", [None, "x", {"failures": [None, 7, {"step": "four"}], "cancelled": 3}])
def test_damaged_launch_is_a_launch_without_what_is_damaged(value: Any) -> None:
    launch = RunRecord.from_json({"launch": value}).launch
    if not isinstance(value, dict):
        assert launch is None
    else:
        assert launch is not None and launch.cancelled is None and launch.submission is None
        assert [failure.step for failure in launch.failures] == [None, None, None]
