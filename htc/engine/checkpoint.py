"""Checkpoints: written so that a crash leaves the last good one, read without running anybody's code."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from htc.errors import UserError
from htc.loading import load_tensors

log = logging.getLogger(__name__)
FILE_NAME = re.compile(r"step_(\d+)\.pt")


def checkpoint_steps(folder: Path) -> list[tuple[int, Path]]:
    """Steps and files of the checkpoints in a folder, oldest first."""
    found = [(FILE_NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write `step_NNNNNNNN.pt` with its checksum beside it, then drop all but the newest `keep`.

    The file appears under its name only when it is whole and on the disk. Raises UserError where it cannot be written.
    """
    path = folder / f"step_{step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in set(folder.glob("step_*.tmp")) - {temporary}:
            left_behind.unlink()
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        _write_durably(checksum_file(path), checksum(temporary))
        temporary.replace(path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint {path} could not be written ({error}): make room or make the folder writable and start "
            "the same command again; the last good checkpoint is kept."
        ) from None
    for _, old in checkpoint_steps(folder)[: -max(keep, 1)]:
        old.unlink(missing_ok=True)
        checksum_file(old).unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest undamaged checkpoint of a folder; None if there is none. Damage is logged."""
    for step, path in reversed(checkpoint_steps(folder)):
        if checksum_file(path).is_file() and checksum_file(path).read_text().strip() == checksum(path):
            return step, read_checkpoint(path)
        log.warning("checkpoint %s is damaged (its checksum differs): the one before it is used", path)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint file, on the CPU. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"checkpoint={path} is not a file: give a file such as RUN_DIR/checkpoints/step_00001000.pt.")
    state = load_tensors(path, "checkpoint")
    if not isinstance(state, dict) or not {"model", "config", "categories"} <= set(state):
        raise UserError(f"checkpoint={path} is not a checkpoint of this project: model, config or categories missing.")
    return state


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
