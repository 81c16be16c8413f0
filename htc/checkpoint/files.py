"""Checkpoint files of a run: a crash while writing leaves the last good one, and reading never runs code."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from htc.checkpoint.record import Checkpoint
from htc.checkpoint.safe_loading import load_tensors
from htc.errors import UserError
from htc.runs.files import sha256_of, sync_folder

logger = logging.getLogger(__name__)
FILE_NAME = re.compile(r"step_(\d+)\.pt")


def checkpoint_steps(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and files of the checkpoints in a folder, oldest first."""
    found = [(FILE_NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step_NNNNNNNN.pt` and its checksum, then delete all but the newest `keep` checkpoints.

    The file appears under its name only when it is complete and on the disk. Checkpoints of later steps are deleted,
    too: they are damaged, so training continued from an earlier one. Raises UserError where the file cannot be written.
    """
    path = folder / f"step_{checkpoint.step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in set(folder.glob("step_*.tmp")) - {temporary}:
            unfinished.unlink()
        with temporary.open("wb") as file:
            torch.save(checkpoint.to_content(), file)
            file.flush()
            os.fsync(file.fileno())
        _write_durably(checksum_file(path), sha256_of(temporary))
        temporary.replace(path)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint {path} could not be written ({error}): make room or make the folder writable and start "
            "the same command again; the last good checkpoint is kept."
        ) from None
    _prune(folder, checkpoint.step, keep)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint of a folder; None if there is none. Damage is logged.

    Raises UserError where the permission to read a checkpoint is missing: it may be undamaged.
    """
    paths = [path for _, path in reversed(checkpoint_steps(folder))]
    for path, before in zip_longest(paths, paths[1:]):
        damage = _damage(path)
        if damage is None:
            return path
        next_try = f"{before.name}, the one before it, is tried" if before else "there is no earlier one to go back to"
        logger.warning("checkpoint %s is damaged (%s): %s", path, damage, next_try)
    return None


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of a folder, on the CPU; None if there is none. Damage is logged."""
    path = newest_checkpoint(folder)
    return None if path is None else read_checkpoint(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint of this project, on the CPU. Raises UserError where it cannot be read."""
    checkpoint = Checkpoint.from_content(read_content(path), f"checkpoint={path}")
    if checkpoint is None:
        raise UserError(f"checkpoint={path} is not a checkpoint of this project: model, config or categories missing.")
    return checkpoint


def read_content(path: Path) -> Any:
    """Return the content of a checkpoint file of any origin, on the CPU. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"checkpoint={path} is not a file: give a file such as RUN_DIR/checkpoints/step_00001000.pt.")
    return load_tensors(path, "checkpoint")


def checksum_file(path: Path) -> Path:
    """Return the file next to a checkpoint that holds its checksum."""
    return path.with_suffix(".sha256")


def _prune(folder: Path, step: int, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints up to `step`; a file that cannot be deleted does no harm."""
    found = checkpoint_steps(folder)
    kept = [path for number, path in found if number <= step][-max(keep, 1) :]
    with suppress(OSError):
        for _, old in found:
            if old not in kept:
                old.unlink(missing_ok=True)
        for sums in folder.glob("step_*.sha256"):
            if FILE_NAME.fullmatch(f"{sums.stem}.pt") and not sums.with_suffix(".pt").exists():
                sums.unlink(missing_ok=True)


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, by its checksum; None for an undamaged file."""
    try:
        return None if checksum_file(path).read_bytes().strip() == sha256_of(path).encode() else "its checksum differs"
    except PermissionError as error:
        raise UserError(f"{error.filename} could not be read ({error.strerror}): make it readable.") from None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it could not be read: {error.strerror}"


def _write_durably(path: Path, text: str) -> None:
    """Write a line of text that is on the disk when the function returns."""
    with path.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
