"""The index of run folders: unchanged runs are not read again, and nothing else than the files decides a table."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from analysis import run_index
from analysis.run_index import INDEX_FILE
from analysis.runs import Run, read_runs
from tests.helpers.run_folders import WriteRun

HOUR_AGO = 3600 * 10**9


@pytest.fixture
def run(write_run: WriteRun) -> Path:
    """A finished run whose files are an hour old."""
    folder = write_run(mask_ap=0.31, seed=3)
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Make the files of a run an hour older, so that they count as settled."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        stat = file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns - HOUR_AGO))


def results_of(run: Path) -> Path:
    return run / "evaluations" / "default" / "results.json"


def rewrite_unnoticed(file: Path, old: str, new: str) -> None:
    """Change a file in place and keep its size and time, as no program does: the index cannot notice it."""
    stat = file.stat()
    text = file.read_text()
    assert text.count(old) == 1 and len(old) == len(new)
    with file.open("r+") as opened:
        opened.write(text.replace(old, new))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def only(runs: Path) -> Run:
    (found,), complaints = read_runs(runs)
    assert complaints == []
    return found


def test_an_unchanged_run_is_not_read_again(runs: Path, run: Path) -> None:
    first = only(runs)
    rewrite_unnoticed(results_of(run), "0.31", "0.99")
    second = only(runs)
    assert repr(second) == repr(first) and second.metrics["mask_AP"] == pytest.approx(31)
    (runs / INDEX_FILE).unlink()
    assert only(runs).metrics["mask_AP"] == pytest.approx(99)


def test_what_is_kept_equals_what_is_read(runs: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        age(write_run(seed=seed, mask_ap=None if seed == 2 else 0.1 * seed, data={"root": f"/data/{seed}"}, fps=1 / 3))
    age(write_run(seed=7, status="failed"))
    age(write_run(seed=8, git={"commit": "1234567890", "dirty": True}))
    first, second = read_runs(runs)[0], read_runs(runs)[0]
    assert (runs / INDEX_FILE).exists()
    # Equal as text: NaN is not equal to itself.
    assert repr(first) == repr(second) and [each.group for each in first] == [each.group for each in second]
    assert second[0].settings is second[1].settings, "runs that differ in the seed share their settings"


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "evaluations/default/results.json"])
def test_a_run_with_a_changed_file_is_read_anew(runs: Path, run: Path, name: str) -> None:
    only(runs)
    rewrite_unnoticed(results_of(run), "0.31", "0.99")
    os.utime(run / name)
    assert only(runs).metrics["mask_AP"] == pytest.approx(99)


def test_a_replaced_file_of_equal_size_and_time_is_read_anew(runs: Path, run: Path) -> None:
    only(runs)
    file = results_of(run)
    stat = file.stat()
    other = file.with_name("other")
    other.write_text(file.read_text().replace("0.31", "0.99"))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert only(runs).metrics["mask_AP"] == pytest.approx(99)


def test_a_run_that_ends_later_is_found(runs: Path, write_run: WriteRun) -> None:
    run = write_run(mask_ap=0.31)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))
    age(run)
    assert only(runs).status == "running"
    (run / "run.json").write_text(json.dumps(record))
    assert only(runs).metrics["mask_AP"] == pytest.approx(31)


def test_files_that_change_just_now_are_not_kept(runs: Path, write_run: WriteRun) -> None:
    run = write_run(mask_ap=0.31)
    only(runs)
    rewrite_unnoticed(results_of(run), "0.31", "0.99")
    assert only(runs).metrics["mask_AP"] == pytest.approx(99)


def test_evaluations_are_kept_apart(runs: Path, run: Path) -> None:
    paper = run / "evaluations" / "paper"
    paper.mkdir()
    (paper / "results.json").write_text(results_of(run).read_text().replace("0.31", "0.42"))
    age(run)
    for _ in range(2):
        assert [read_runs(runs, name)[0][0].metrics["mask_AP"] for name in ("default", "paper")] == pytest.approx(
            [31, 42]
        )


def test_other_reading_code_reads_anew(runs: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(runs)
    rewrite_unnoticed(results_of(run), "0.31", "0.99")
    monkeypatch.setattr(run_index, "code_hash", lambda: "0123")
    assert only(runs).metrics["mask_AP"] == pytest.approx(99)


def whole(content: dict[str, Any]) -> str:
    """Return the text of an index whose checksum is right."""
    text = json.dumps({"code": run_index.code_hash(), **content})
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("31", "32"),
        lambda text: "\0" * 100,
        lambda text: whole({}),
        lambda text: whole({"runs": [], "settings": 3}),
        lambda text: whole({"runs": {"x": 3}, "settings": {}}),
    ],
)
def test_a_damaged_index_is_written_anew(runs: Path, run: Path, damage: Any) -> None:
    first = only(runs)
    index = runs / INDEX_FILE
    before = index.read_text()
    index.write_text(damage(before))
    assert repr(only(runs)) == repr(first) and index.read_text() == before


def test_a_folder_that_cannot_be_written_gives_the_same_runs(runs: Path, run: Path) -> None:
    (runs / INDEX_FILE.parent).write_text("a file in place of the folder")
    assert repr(only(runs)) == repr(only(runs))
    assert (runs / INDEX_FILE.parent).is_file()


def test_a_deleted_run_leaves_the_index(runs: Path, run: Path, write_run: WriteRun) -> None:
    age(write_run(seed=4))
    assert len(read_runs(runs)[0]) == 2
    for file in sorted(run.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    run.rmdir()
    assert len(read_runs(runs)[0]) == 1
    assert run.name not in (runs / INDEX_FILE).read_text()
