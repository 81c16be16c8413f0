"""Checkpoint files: a crash leaves the last good one, damaged files are skipped, and no file runs code."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from htc.checkpoint.files import load_newest, read_checkpoint, save_checkpoint
from htc.checkpoint.record import Categories, Checkpoint
from htc.errors import UserError


def state(value: float) -> Checkpoint:
    """Return a checkpoint of step `value`, whose weights have this value."""
    weights = {"weight": torch.full((1000,), value)}
    return Checkpoint(weights, {"seed": 0}, Categories([1, 3], ["disc", "square"]), int(value))


def save_steps(folder: Path, steps: list[int], keep: int = 2) -> None:
    for step in steps:
        save_checkpoint(folder, state(step), keep)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_saved_checkpoint_is_loaded_again(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new" / "checkpoints", state(7), 2)
    found = load_newest(path.parent)
    assert found is not None
    assert found.step == 7 and found.categories == state(7).categories
    assert torch.equal(found.model["weight"], torch.full((1000,), 7.0))


def test_only_the_newest_checkpoints_and_their_checksums_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, [5, 10, 20, 100])
    assert files(tmp_path) == {f"step_{step:08d}.{end}" for step in (20, 100) for end in ("pt", "sha256")}


def test_damaged_checkpoint_of_a_later_step_is_deleted_by_the_next_save(tmp_path: Path) -> None:
    save_steps(tmp_path, [100], keep=1)
    (tmp_path / "step_00000100.pt").write_bytes(b"damaged")
    assert load_newest(tmp_path) is None
    save_steps(tmp_path, [10], keep=1)
    found = load_newest(tmp_path)
    assert found is not None and found.step == 10
    assert files(tmp_path) == {"step_00000010.pt", "step_00000010.sha256"}


def test_checksum_without_a_checkpoint_is_deleted_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "step_00000007.sha256").write_text("of an interrupted save")
    save_steps(tmp_path, [8])
    assert files(tmp_path) == {"step_00000008.pt", "step_00000008.sha256"}


def test_files_of_the_user_are_kept(tmp_path: Path) -> None:
    (tmp_path / "step_best.pt").write_text("mine")
    save_steps(tmp_path, [1, 2], keep=1)
    assert files(tmp_path) == {"step_best.pt", "step_00000002.pt", "step_00000002.sha256"}


def test_at_least_one_checkpoint_is_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, [1, 2], keep=0)
    assert files(tmp_path) == {"step_00000002.pt", "step_00000002.sha256"}


def test_empty_or_missing_folder_has_no_newest_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "damage",
    ["truncated", "bit flipped", "no checksum", "invalid checksum", "bad sector", "checksum in a bad sector"],
)
def test_checkpoint_before_a_damaged_one_is_loaded_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("htc"), "propagate", True)
    save_steps(tmp_path, [1, 2])
    newest = tmp_path / "step_00000002.pt"
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "bit flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "invalid checksum":
        newest.with_suffix(".sha256").write_bytes(b"\xff\xfe\x80")
    else:
        file = newest if damage == "bad sector" else newest.with_suffix(".sha256")
        file.unlink()
        if damage != "no checksum":
            # Reading the beginning of this file fails with the same error as reading a bad sector.
            file.symlink_to("/proc/self/mem")
    found = load_newest(tmp_path)
    assert found is not None and found.step == 1 and found.model["weight"][0] == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and str(newest) in record.getMessage()


def test_folder_with_only_damaged_checkpoints_has_no_newest_checkpoint(tmp_path: Path) -> None:
    save_steps(tmp_path, [1])
    (tmp_path / "step_00000001.pt").write_bytes(b"")
    assert load_newest(tmp_path) is None


def test_error_while_writing_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    save_steps(tmp_path, [1])
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(tmp_path, replace(state(2), config={"broken": Unsaveable()}), 1)
    found = load_newest(tmp_path)
    assert found is not None and found.step == 1
    save_steps(tmp_path, [3], keep=1)
    assert "step_00000001.pt" not in files(tmp_path)


class Unsaveable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ZeroDivisionError


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "executed"
    torch.save({**state(1).to_content(), "config": Malicious(trace)}, path)
    with pytest.raises(UserError, match=r"evil\.pt was refused: unpickling it would run"):
        read_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so the assertions above prove nothing"


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_file_that_is_not_a_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.pt could not be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [{"model": {}}, [1], {"state_dict": {}}])
def test_checkpoint_of_another_project_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "theirs.pt"
    torch.save(value, path)
    with pytest.raises(UserError, match=r"theirs\.pt is not a checkpoint of this project"):
        read_checkpoint(path)


def test_missing_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt is not a file"):
        read_checkpoint(tmp_path / "nowhere.pt")


def test_folder_that_cannot_be_created_raises_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file instead of a folder")
    with pytest.raises(UserError, match="could not be written"):
        save_checkpoint(tmp_path / "checkpoints", state(1), 1)


def test_unfinished_file_of_a_killed_save_is_deleted_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "step_00000001.tmp").write_bytes(b"half")
    save_steps(tmp_path, [2])
    assert files(tmp_path) == {"step_00000002.pt", "step_00000002.sha256"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_raises_a_user_error_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    save_steps(tmp_path, [1])
    (tmp_path / "step_00000002.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"step_00000002\.pt could not be written .*make room or make the folder writ"):
        save_checkpoint(tmp_path, state(2), 1)
    assert files(tmp_path) == {"step_00000001.pt", "step_00000001.sha256"}
    found = load_newest(tmp_path)
    assert found is not None and found.step == 1
