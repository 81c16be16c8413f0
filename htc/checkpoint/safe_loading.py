"""Reading of files that `torch.save` wrote, without running code from the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from htc.checkpoint.stand_ins import RunsCodeError, stand_ins_for
from htc.errors import UserError


def load_tensors(path: Path, key: str) -> Any:
    """Return the tensors (on the CPU) and the plain values of a file.

    Objects of other frameworks become inert placeholders: a checkpoint of MMDetection contains logs, a configuration
    and NumPy arrays.

    Args:
        path: path of the file.
        key: key of the configuration that names the file, for messages.

    Raises UserError for a file that would run code when it is unpickled, and for a file that cannot be read.
    """
    try:
        with torch.serialization.safe_globals(stand_ins_for(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except RunsCodeError as error:
        raise _refused(path, key, error.name) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception in the reader
        # PyTorch's message explains how to read the file without protection; only the reason at its end is shown.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        if unsafe := re.search(r"\bGLOBAL ([\w.]+)", reason):
            raise _refused(path, key, unsafe[1]) from None
        reason = reason.splitlines()[0].rstrip(".") if reason else type(error).__name__
        raise UserError(
            f"{key}={path} could not be read as a file of tensors ({reason}): it is damaged, or of another format than "
            "torch.save's."
        ) from None


def _refused(path: Path, key: str, name: str) -> UserError:
    return UserError(
        f"{key}={path} was refused: unpickling it would run {name}, and nothing in a file of weights may run code; "
        "take it from a source that you trust and save its tensors alone."
    )
