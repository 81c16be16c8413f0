"""Paths in the configuration: their form in the signature, and the files that they name where a run starts."""

from __future__ import annotations

import os
import posixpath
import re
import socket
from pathlib import Path

from htc.config.schema import PathKind
from htc.errors import UserError

RUN_SIGNATURE = re.compile(r"[0-9a-f]{8}(-r\d+)?$")
"""End of the name of a run's folder: its signature, and the number of a repetition."""
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


def expand_path(text: str, key: str) -> str:
    """Return a path with `~` and environment variables replaced by their values on this machine.

    Args:
        text: the path, such as `$SLURM_TMPDIR/coco`.
        key: the key of the configuration, for the message.

    Raises:
        UserError: for a variable that is not set here.
    """
    for match in VARIABLE.finditer(text):
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(
                f"{key}={text}: the environment variable {name} is not set on {socket.gethostname()}, where the run "
                "starts: set it there, or write the path in full."
            )
    return str(Path(os.path.expandvars(text)).expanduser())


def normal_path(text: str, kind: PathKind) -> str:
    """Return the one form of a path that the signature has: `/d`, `/d/`, a relative path and a link to `/d` are equal.

    Environment variables stay as they are written: their values differ from node to node.
    """
    if kind is PathKind.run:
        # The beginning of a run's name may differ, and does not matter.
        found = RUN_SIGNATURE.search(text)
        return found[0] if found else text
    if kind is PathKind.data_root or VARIABLE.search(text):
        return posixpath.normpath(text)
    return os.path.realpath(Path(text).expanduser())
