"""Sweeps are renamed and forgotten without their runs; checkpoints and runs are deleted after a confirmation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from htc.errors import UserError
from htc.launch.housekeeping import clean, delete, forget, readable, rename
from htc.runs.evaluations import evaluation_folder
from htc.runs.pool import SelectedRun, change_rows, read_rows, sweep_names
from htc.status import as_text
from tests.helpers.command import command


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two done runs and one that failed, each with two checkpoints, in two sweeps."""
    pool = tmp_path / "runs"
    for name, status in (("a-00000001", "done"), ("b-00000002", "done"), ("c-00000003", "failed")):
        checkpoints = pool / name / "checkpoints"
        checkpoints.mkdir(parents=True)
        (pool / name / "run.json").write_text(json.dumps({"status": status}))
        for step in (2, 4):
            (checkpoints / f"step_{step:08d}.pt").write_bytes(b"x" * 1000)
            (checkpoints / f"step_{step:08d}.sha256").write_bytes(b"y" * 10)
        if status == "done":
            evaluation_folder(pool / name, "default").write({"segm": {"AP": 0.5}})
    change_rows(pool, "one", lambda _: [SelectedRun("a-00000001", "A"), SelectedRun("c-00000003", "C, c")])
    change_rows(pool, "two", lambda _: [SelectedRun("a-00000001", "base"), SelectedRun("b-00000002", "B")])
    return pool


def checkpoints(pool: Path) -> list[str]:
    return sorted(f"{path.parents[1].name[0]}{int(path.stem[5:])}" for path in pool.glob("*/checkpoints/*.pt"))


def test_sweep_is_renamed_and_keeps_its_rows(pool: Path) -> None:
    before = read_rows(pool, "one")
    rename(pool, "one", "first table")
    assert sweep_names(pool) == ["first table", "two"] and read_rows(pool, "first table") == before
    for old, new, message in (
        ("one", "x", "is not a sweep"),
        ("two", "first table", "already"),
        ("two", "a/b", "name"),
    ):
        with pytest.raises(UserError, match=message):
            rename(pool, old, new)


def test_forgotten_rows_and_sweeps_leave_their_runs(pool: Path) -> None:
    forget(pool, ["two/B"])
    assert [row.label for row in read_rows(pool, "two")] == ["base"]
    forget(pool, ["one/C, c"])
    assert [row.label for row in read_rows(pool, "one")] == ["A"]
    forget(pool, ["two"])
    assert sweep_names(pool) == ["one"] and len(list(pool.glob("[!.]*"))) == 3
    with pytest.raises(UserError, match="is not a sweep"):
        forget(pool, ["three"])


def test_clean_keeps_the_newest_checkpoint_of_done_runs_and_all_of_others(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(pool, ["one", "two"], everything=False, confirmed=True)
    assert checkpoints(pool) == ["a4", "b4", "c2", "c4"]
    assert "deleted 4 files of 2 done runs, 2.0 KB" in capsys.readouterr().out
    clean(pool, ["a-00000001"], everything=True, confirmed=True)
    assert checkpoints(pool) == ["b4", "c2", "c4"]
    assert "cannot be evaluated again" in capsys.readouterr().out


def test_row_of_a_deleted_run_is_missing(pool: Path) -> None:
    delete(pool, ["a-00000001"], confirmed=True)
    assert not (pool / "a-00000001").exists()
    assert "two: 1 done, 1 missing" in as_text(pool, ["two"])[0]


def test_linked_run_is_deleted_without_what_it_points_to(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (pool / "a-00000001").rename(tmp_path / "elsewhere" / "a-00000001")
    (pool / "a-00000001").symlink_to(tmp_path / "elsewhere" / "a-00000001")
    delete(pool, ["a-00000001"], confirmed=True)
    assert not (pool / "a-00000001").is_symlink() and (tmp_path / "elsewhere" / "a-00000001" / "run.json").is_file()


@pytest.mark.parametrize("action", [["clean", "one"], ["delete", "a-00000001"]])
def test_nothing_is_deleted_without_a_confirmation(pool: Path, action: list[str]) -> None:
    result = command("htc.status", *action, f"runs={pool}")
    assert result.returncode == 2 and "Add --yes to confirm." in result.stderr
    assert checkpoints(pool) == ["a2", "a4", "b2", "b4", "c2", "c4"]
    confirmed = command("htc.status", *action, f"runs={pool}", "--yes")
    assert confirmed.returncode == 0 and len(checkpoints(pool)) < 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rename", "one"], "two names"),
        (["forget"], "the name of a sweep"),
        (["clean"], "the name of a sweep"),
        (["adopt"], "one folder of old"),
    ],
)
def test_action_without_names_says_what_it_needs(pool: Path, words: list[str], message: str) -> None:
    result = command("htc.status", *words, f"runs={pool}")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (2020, "2.0 KB"), (12.34e9, "12.3 GB")])
def test_sizes_are_readable(size: float, text: str) -> None:
    assert readable(int(size)) == text
