"""Reading what `torch.save` wrote, without running anybody's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from htc.errors import UserError


def load_tensors(path: Path, key: str) -> Any:
    """The tensors and plain values of a file, on the CPU; a file whose pickle holds anything else is refused.

    `key` is the configuration's name of the file. Raises UserError for a file that cannot be read so.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a damaged or foreign file provokes in the reader
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{key}={path} could not be read as a file of tensors: {reason}") from None
