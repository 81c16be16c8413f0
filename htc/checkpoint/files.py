"""Checkpoints: written so that a crash leaves the last good one, read without running anybody's code."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from htc.checkpoint.safe_loading import load_tensors
from htc.errors import UserError
from htc.runs.files import sync_folder

logger = logging.getLogger(__name__)
FILE_NAME = re.compile(r"step_(\d+)\.pt")


def checkpoint_steps(folder: Path) -> list[tuple[int, Path]]:
    """Steps and files of the checkpoints in a folder, oldest first."""
    found = [(FILE_NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write `step_NNNNNNNN.pt` with its checksum beside it, then drop all but the newest `keep`.

    The file appears under its name only when it is whole and on the disk. Checkpoints beyond `step` go, too: they are
    damaged ones that training has fallen back from. Raises UserError where the file cannot be written.
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
        sync_folder(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint {path} could not be written ({error}): make room or make the folder writable and start "
            "the same command again; the last good checkpoint is kept."
        ) from None
    _prune(folder, step, keep)
    return path


def _prune(folder: Path, step: int, keep: int) -> None:
    """Drop what is not among the newest `keep` up to `step`; a file that cannot be dropped does no harm."""
    found = checkpoint_steps(folder)
    kept = [path for number, path in found if number <= step][-max(keep, 1) :]
    with suppress(OSError):
        for _, old in found:
            if old not in kept:
                old.unlink(missing_ok=True)
        for sums in folder.glob("step_*.sha256"):
            if FILE_NAME.fullmatch(f"{sums.stem}.pt") and not sums.with_suffix(".pt").exists():
                sums.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a folder; None if there is none. Damage is logged.

    Raises UserError where the user may not read a checkpoint: it need not be damaged.
    """
    paths = [path for _, path in reversed(checkpoint_steps(folder))]
    for path, before in zip_longest(paths, paths[1:]):
        damage = _damage(path)
        if damage is None:
            return path
        then = f"{before.name}, the one before it, is tried" if before else "there is none before it to go back to"
        logger.warning("checkpoint %s is damaged (%s): %s", path, damage, then)
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, by its checksum; None where nothing is."""
    try:
        return None if checksum_file(path).read_bytes().strip() == checksum(path).encode() else "its checksum differs"
    except PermissionError as error:
        raise UserError(f"{error.filename} could not be read ({error.strerror}): make it readable.") from None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it could not be read: {error.strerror}"


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest undamaged checkpoint of a folder; None if there is none. Damage is logged."""
    path = newest_checkpoint(folder)
    if path is None:
        return None
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), read_checkpoint(path)


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint that are evaluated: their moving average where the run keeps one."""
    return dict(state.get("ema") or state["model"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint of this project, on the CPU. Raises UserError where it cannot be read."""
    state = own_state(read_content(path), f"checkpoint={path}")
    if state is None:
        raise UserError(f"checkpoint={path} is not a checkpoint of this project: model, config or categories missing.")
    return state


def read_content(path: Path) -> Any:
    """What a checkpoint file of whatever origin holds, on the CPU. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"checkpoint={path} is not a file: give a file such as RUN_DIR/checkpoints/step_00001000.pt.")
    return load_tensors(path, "checkpoint")


def own_state(content: Any, source: str) -> dict[str, Any] | None:
    """The state that a file's content holds if it is a checkpoint of this project; None if it is another's.

    Whether the weights fit shows when they are loaded. Raises UserError, naming the entry, where it holds what no
    checkpoint of this project does: the file may be anybody's.
    """
    if not (isinstance(content, dict) and {"model", "config", "categories"} <= set(content)):
        return None
    state = dict(content)
    expected = {
        "model": (is_weights(state["model"]), "tensors by name"),
        "ema": (state.get("ema") is None or is_weights(state["ema"]), "tensors by name"),
        "unused": ("unused" not in state or is_weights(state["unused"]), "tensors by name"),
        "config": (isinstance(state["config"], dict), "a run's configuration"),
        "categories": (is_categories(state["categories"]), "a name, and an id of its own, for each category"),
        "step": (is_count(state.get("step")), "a number of steps"),
    }
    for entry, (sound, what) in expected.items():
        if not sound:
            raise UserError(f"{source} is damaged, or not a checkpoint of this project: its `{entry}` is not {what}.")
    return state


def is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_categories(value: Any) -> bool:
    """Whether it is the `ids` (null where they are not known) and `names` of categories."""
    if not isinstance(value, dict) or not isinstance(value.get("names"), list) or "ids" not in value:
        return False
    names, ids = value["names"], value["ids"]
    if not names or not all(isinstance(name, str) for name in names):
        return False
    return ids is None or (
        isinstance(ids, list) and all(map(is_count, ids)) and len(ids) == len(names) == len(set(ids))
    )


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
