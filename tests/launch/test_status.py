"""What `python -m htc.status` shows of runs, by the files in their folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from htc.launch.status.table import format_duration
from htc.status import as_json, as_text

TRAIN = {"kind": "train", "step": 20, "epoch": 0.5, "loss": 1.5, "images_per_second": 9.5}
LAST_WRITTEN = 1e9
"""Time of the last line of each run, as a file's modification time: years ago, so that its age has the same width."""


def write_run(
    folder: Path, record: dict[str, Any], *metrics: dict[str, Any], results: dict[str, Any] | None = None
) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    if metrics:
        file = folder / "metrics.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in metrics))
        os.utime(file, (LAST_WRITTEN, LAST_WRITTEN))
    if results:
        (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two sweeps: one with runs in four states, one with a run that failed in the local launcher."""
    runs = tmp_path / "runs"
    length = {"epochs": 12, "iterations": None, "batch_size": 4}
    results = {"segm": {"AP": 0.341}, "bbox": {"AP": 0.38}}
    evaluation = {"kind": "eval", "step": 20, "segm": {"AP": 0.1}}
    write_run(runs / "a" / "done", {"status": "done", "host": "n1"}, TRAIN, results=results)
    write_run(
        runs / "a" / "full", {"status": "failed", "error": "the disk is full", "resumes": [{"host": "n2"}]}, TRAIN
    )
    write_run(runs / "a" / "lost", {"status": "running", "launch": {"length": length}, "host": "n3"}, TRAIN)
    write_run(runs / "a" / "saved", {"status": "preempted"}, TRAIN, evaluation)
    write_run(runs / "b" / "silent", {"status": "failed"})
    submission = runs / "b" / ".launch" / "first"
    submission.mkdir(parents=True)
    record = {
        "id": "first",
        "launcher": "local",
        "options": {},
        "code": "",
        "cwd": "",
        "runs": ["silent"],
        "jobs": [None],
    }
    (submission / "submission.json").write_text(json.dumps(record))
    (submission / "0.log").write_text("Segmentation fault\n\n")
    return runs


def without_age(text: str) -> list[str]:
    """The lines of a table without the age of the last line, which depends on the clock."""
    return [
        " ".join(word for word in line.split() if not word.endswith("h") or "d" not in word)
        for line in text.splitlines()
    ]


def test_a_sweep_is_a_line_per_run_and_below_a_failed_one_its_cause(runs: Path) -> None:
    assert without_age(as_text(runs, "a", "")) == [
        "RUN STATE STEP ETA LAST METRIC JOB NODE LAST LINE RESTARTS",
        "done done 20/? box AP 38.0, mask AP 34.1 n1 0",
        "full failed 20/? loss 1.500 n2 1",
        "the disk is full",
        "lost lost 20/480 loss 1.500 n3 0",
        "saved preempted 20/? box AP -, mask AP 10.0 0",
        "a: 1 done, 1 failed, 1 preempted, 1 lost",
    ]


def test_without_a_sweep_the_runs_that_are_not_done_are_shown_and_a_summary_of_each_sweep(runs: Path) -> None:
    assert without_age(as_text(runs, "", ""))[1:] == [
        "a/full failed 20/? loss 1.500 n2 1",
        "the disk is full",
        "a/lost lost 20/480 loss 1.500 n3 0",
        "a/saved preempted 20/? box AP -, mask AP 10.0 0",
        "b/silent failed 0",
        "Segmentation fault",
        "",
        "a: 1 done, 1 failed, 1 preempted, 1 lost",
        "b: 1 failed",
    ]


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_end(runs: Path) -> None:
    header, *lines = as_text(runs, "a", "").splitlines()
    for line in (lines[0], lines[1], lines[3]):
        assert line[header.index("STATE") - 1] == " " != line[header.index("STATE")]
        assert line[header.index("RESTARTS")] in "01"
    assert all(line == line.rstrip() for line in (header, *lines))


def test_json_has_an_object_per_run(runs: Path) -> None:
    found = json.loads(as_json(runs, "", ""))
    assert [(row["sweep"], row["run"], row["state"]) for row in found] == [
        ("a", "done", "done"),
        ("a", "full", "failed"),
        ("a", "lost", "lost"),
        ("a", "saved", "preempted"),
        ("b", "silent", "failed"),
    ]
    (full,) = json.loads(as_json(runs, "a", "full"))
    assert full.pop("seconds_since_last_line") > 0
    assert full == {
        "sweep": "a", "run": "full", "folder": str(runs / "a" / "full"), "state": "failed", "step": 20,
        "total_steps": None, "seconds_left": None, "last_metric": "loss 1.500", "job": None, "node": "n2",
        "restarts": 1, "error": ["the disk is full"], "remark": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h00m"), (7500, "2h05m"),
     (86399, "23h59m"), (86400, "1d00h"), (273600, "3d04h")],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text
