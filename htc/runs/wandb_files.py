"""The files of wandb's offline runs in a run folder.

wandb writes a new folder, with the same run id, each time that a run is resumed offline, and `wandb sync` uploads each
folder as the complete run. So there must be a single folder with the complete history: see
`htc.runs.tracking.Tracker`.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def offline_files(folder: Path) -> list[Path]:
    """Return the .wandb files of the offline runs in a run folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def remove_offline_runs(files: list[Path]) -> None:
    """Delete offline runs, whose complete history is in a later one.

    The .wandb file is deleted first: `wandb sync` ignores a folder without one, should the deletion be interrupted.
    """
    for file in files:
        file.unlink(missing_ok=True)
        shutil.rmtree(file.parent, ignore_errors=True)
