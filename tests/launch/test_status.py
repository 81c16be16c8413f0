"""What `python -m htc.status` shows of runs, by the files in their folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from htc.errors import UserError
from htc.launch.status.selection import select
from htc.launch.status.table import format_duration
from htc.runs.evaluations import evaluation_folder
from htc.runs.pool import SelectedRun, change_rows
from htc.status import as_json, as_text
from tests.helpers.command import command

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
        evaluation_folder(folder, "default").write(results)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A pool with two sweeps that share a run, and a run that failed in the local launcher."""
    runs = tmp_path / "runs"
    length = {"epochs": 12, "iterations": None, "batch_size": 4}
    results = {"segm": {"AP": 0.341}, "bbox": {"AP": 0.38}}
    evaluation = {"kind": "eval", "step": 20, "segm": {"AP": 0.1}}
    of_full = {"status": "failed", "error": "the disk is full", "resumes": [{"host": "n2"}], "identity": {"seed": 1}}
    write_run(
        runs / "done-00000001", {"status": "done", "host": "n1", "identity": {"model.mask_flow": True}}, TRAIN,
        results=results,
    )  # fmt: skip
    write_run(runs / "full-00000002", of_full, TRAIN)
    write_run(runs / "lost-00000003", {"status": "running", "launch": {"length": length}, "host": "n3"}, TRAIN)
    write_run(runs / "saved-00000004", {"status": "preempted"}, TRAIN, evaluation)
    write_run(runs / "silent-00000005", {"status": "failed"})
    write_run(runs / "alone-00000006", {"status": "done"}, results=results)
    rows = [
        SelectedRun("done-00000001", "full HTC"), SelectedRun("full-00000002", "β = 0.5"),
        SelectedRun("lost-00000003"), SelectedRun("saved-00000004"), SelectedRun("gone-00000007", "deleted"),
    ]  # fmt: skip
    change_rows(runs, "a", lambda _: rows)
    change_rows(
        runs, "b", lambda _: [SelectedRun("silent-00000005"), SelectedRun("done-00000001", "base", evaluation="paper")]
    )
    submission = runs / ".sweeps" / "b" / "submissions" / "first"
    submission.mkdir(parents=True)
    record = {
        "id": "first", "launcher": "local", "options": {}, "code": "", "cwd": "", "runs": ["silent-00000005"],
        "jobs": [None],
    }  # fmt: skip
    (submission / "submission.json").write_text(json.dumps(record))
    (submission / "0.log").write_text("Segmentation fault\n\n")
    return runs


def without_age(text: str) -> list[str]:
    """The lines of a table without the age of the last line, which depends on the clock."""
    return [
        " ".join(word for word in line.split() if not word.endswith("h") or "d" not in word)
        for line in text.splitlines()
    ]


def names(rows: list[SelectedRun]) -> list[str]:
    return [row.run.partition("-")[0] for row in rows]


def test_a_sweep_is_a_line_per_row_with_label_and_differences_and_below_a_failed_one_its_cause(runs: Path) -> None:
    assert without_age(as_text(runs, ["a"])[0]) == [
        "LABEL RUN mask_flow seed STATE STEP ETA LAST METRIC JOB NODE LAST LINE RESTARTS",
        "full HTC done-00000001 true 0 done 20/? box AP 38.0, mask AP 34.1 n1 0",
        "β = 0.5 full-00000002 false 1 failed 20/? loss 1.500 n2 1",
        "the disk is full",
        "lost-00000003 lost 20/480 loss 1.500 n3 0",
        "saved-00000004 preempted 20/? box AP -, mask AP 10.0 0",
        "deleted gone-00000007 missing 0",
        "a: 1 done, 1 failed, 1 preempted, 1 lost, 1 missing",
    ]


def test_without_a_name_the_runs_that_are_not_done_are_shown_and_a_summary_of_each_sweep(runs: Path) -> None:
    shown = without_age(as_text(runs, [])[0])
    assert shown[-3:] == [
        "a: 1 done, 1 failed, 1 preempted, 1 lost, 1 missing",
        "b: 1 trained, 1 failed",
        "no sweep: 1 done",
    ]
    for name in ("full", "lost", "saved", "silent", "gone", "done"):
        assert sum(f"{name}-0" in line for line in shown) == 1, "a run that several sweeps select is shown once"
    assert not any("alone" in line for line in shown)


def test_run_that_lacks_the_evaluation_of_a_row_is_trained(runs: Path) -> None:
    lines = without_age(as_text(runs, ["b/base"])[0])
    assert "trained" in lines[1] and lines[-1] == "b/base: 1 trained"
    evaluation_folder(runs / "done-00000001", "paper").write({"segm": {"AP": 0.5}, "bbox": {"AP": 0.6}})
    assert "done 20/? box AP 60.0, mask AP 50.0" in without_age(as_text(runs, ["b/base"])[0])[1]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("a", ["done", "full", "lost", "saved", "gone"]),
        ("a/β = 0.5", ["full"]),
        ("a/full HTC", ["done"]),
        ("a/lost-00000003", ["lost"]),
        ("a/los", ["lost"]),
        ("a/*0.5*", ["full"]),
        ("alone-00000006", ["alone"]),
        ("00000006", ["alone"]),
        ("al", ["alone"]),
        ("*-0000000[56]", ["alone", "silent"]),
    ],
)
def test_word_names_a_sweep_rows_or_runs(runs: Path, word: str, found: list[str]) -> None:
    assert names(select(runs, [word])) == found


def test_path_of_a_run_names_it(runs: Path) -> None:
    assert names(select(runs, [str(runs / "alone-00000006")])) == ["alone"]


@pytest.mark.parametrize("word", ["c", "a/none", "*nothing*", "a/*nothing*"])
def test_word_that_names_nothing_is_refused(runs: Path, word: str) -> None:
    with pytest.raises(UserError, match="is neither a "):
        select(runs, [word])


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_end(runs: Path) -> None:
    header, *lines = as_text(runs, ["a"])[0].splitlines()
    for line in (lines[0], lines[1], lines[3]):
        assert line[header.index("STATE") - 1] == " " != line[header.index("STATE")]
        assert line[header.index("RESTARTS")] in "01"
    assert all(line == line.rstrip() for line in (header, *lines))


def test_json_has_an_object_per_row_with_numeric_metrics(runs: Path) -> None:
    found = json.loads(as_json(runs, ["a"])[0])
    assert [(row["run"].partition("-")[0], row["state"], row["mask_AP"]) for row in found] == [
        ("done", "done", 0.341), ("full", "failed", None), ("lost", "lost", None), ("saved", "preempted", None),
        ("gone", "missing", None),
    ]  # fmt: skip
    assert found[0]["sweeps"] == ["a", "b"]
    (full,) = json.loads(as_json(runs, ["full"])[0])
    assert full.pop("seconds_since_last_line") > 0
    assert full == {
        "run": "full-00000002", "label": None, "sweeps": ["a"], "folder": str(runs / "full-00000002"),
        "state": "failed", "step": 20, "total_steps": None, "seconds_left": None, "last_metric": "loss 1.500",
        "box_AP": None, "mask_AP": None, "evaluation": None, "settings": {"seed": 1}, "job": None, "node": "n2",
        "restarts": 1, "error": ["the disk is full"], "remark": None,
    }  # fmt: skip


def test_nothing_is_under_way_so_watching_ends(runs: Path) -> None:
    assert as_text(runs, [])[1] is as_json(runs, [])[1] is False
    result = command("htc.status", "a", f"runs={runs}", "--watch", timeout=60)
    assert result.returncode == 0 and "β = 0.5" in result.stdout


@pytest.mark.parametrize(("word", "code"), [("a", 1), ("alone", 0)])
def test_waiting_has_an_exit_status_for_scripts(runs: Path, word: str, code: int) -> None:
    result = command("htc.status", word, f"runs={runs}", "--wait", timeout=60)
    assert result.returncode == code, result.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h00m"), (7500, "2h05m"),
     (86399, "23h59m"), (86400, "1d00h"), (273600, "3d04h")],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text
