"""Fingerprint of the content of a split, which is recorded with a run and compared when the run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from htc.data.dataset import CocoDataset
from htc.errors import UserError
from htc.runs.files import sha256_of
from htc.runs.record import SplitFingerprint

MAX_FILES = 1000
"""Number of files of a folder whose sizes are read: on a network file system, all 118,000 of COCO take minutes."""


def fingerprint(dataset: CocoDataset) -> SplitFingerprint:
    """Return the fingerprint of the images that a data set uses, and of their annotations.

    Equal content has an equal fingerprint, wherever it is. The annotation file is read completely, which takes seconds
    for COCO; of image files and stuff maps, the names and sizes of at most MAX_FILES are read.
    """
    annotations = dataset.annotations
    chosen = dataset.images[np.unique(np.linspace(0, len(dataset) - 1, MAX_FILES).round().astype(int))].tolist()
    semantic = dataset.semantic_targets
    stuff = None
    if semantic is not None and semantic.folder is not None:
        stuff = _sizes(semantic.folder, map(semantic.map_name, chosen))
    digest = sha256_of(dataset.annotation_file)
    return SplitFingerprint(
        digest, len(dataset), _sizes(annotations.images_dir, map(annotations.file_name, chosen)), stuff
    )


def refuse_other_content(recorded: SplitFingerprint | None, found: SplitFingerprint, dataset: CocoDataset) -> None:
    """Raise UserError where the content of a split is not the one that the run recorded.

    Args:
        recorded: fingerprint in run.json; None where there is none.
        found: fingerprint of the split as it is now.
        dataset: the split.
    """
    if recorded is None or (difference := recorded.difference(found)) is None:
        return
    raise UserError(
        f"{dataset.annotation_file} and its images have changed since this run started ({difference}): restore them, "
        "or put the new data into another folder, data.root=DIR, which makes another run."
    )


def _sizes(folder: Path, names: Iterable[str]) -> str:
    lines = (f"{name} {(folder / name).stat().st_size}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
