"""Checks that training and validation have the same categories and do not share images."""

from __future__ import annotations

import filecmp
import logging
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from htc.data.coco.annotations import Annotations
from htc.data.coco.problems import Problem, Severity, fault, refuse

if TYPE_CHECKING:
    from htc.data.dataset import CocoDataset

logger = logging.getLogger(__name__)
MAX_SHARED = 20
"""Number of shared files after which the search stops, because comparing contents takes time."""


def check_splits(train: CocoDataset, val: CocoDataset) -> None:
    """Raise UserError if metrics of the validation split would be meaningless for this training split.

    This takes seconds: contents are compared only for files with the same name and size in both folders.
    `htc.data.check` compares all files.
    """
    problems = category_problems(train.annotations, val.annotations)
    problems += shared_files(train.annotations, val.annotations, train.images.tolist(), val.images.tolist())
    refuse(problems)
    for problem in problems:
        logger.warning("%s", problem.sentence)


def category_problems(train: Annotations, val: Annotations) -> list[Problem]:
    """Return a fault for each category that differs between the files: its label would mean two different things."""
    ours = dict(zip(train.category_ids, train.category_names, strict=True))
    theirs = dict(zip(val.category_ids, val.category_names, strict=True))
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))

    def named(names: dict[int, str], key: int) -> str:
        return repr(names[key]) if key in names else "missing"

    return [
        fault(
            "categories differ",
            f"category {key} is {named(ours, key)} in {train.path} and {named(theirs, key)} in {val.path}: list the "
            "same categories in both files, including those without objects.",
        )
        for key in different
    ]


def shared_files(train: Annotations, val: Annotations, of_train: list[int], of_val: list[int]) -> list[Problem]:
    """Return a problem for each image file that both splits use.

    If both splits use one annotation file, this is intended (overfitting a few images), so there is just a note. In two
    annotation files it is a mistake that makes the metrics too good. Image ids are not compared, because each file may
    number its own images.

    Args:
        train: Annotations of the training split.
        val: Annotations of the validation split.
        of_train: Positions in `train` of the images that are used.
        of_val: Positions in `val` of the images that are used.
    """
    if train.path.resolve() == val.path.resolve():
        return [Problem(Severity.note, "one file for both", f"training and validation both use {train.path}: the "
                        "metrics show how well the model has memorised the images.")]  # fmt: skip
    names = {str(PurePath(train.file_name(image))) for image in of_train}
    common = [name for name in (str(PurePath(val.file_name(image))) for image in of_val) if name in names]
    one_folder = train.images_dir.resolve() == val.images_dir.resolve()
    pairs = ((train.images_dir / name, val.images_dir / name) for name in common)
    shared = [(a, b) for a, b in islice((pair for pair in pairs if one_folder or _same_content(*pair)), MAX_SHARED)]
    return [shared_image(a, b, train, val) for a, b in shared]


def shared_image(a: Path, b: Path, train: Annotations, val: Annotations) -> Problem:
    """Return a fault for an image that is in both splits.

    Args:
        a: File of the image in the training split.
        b: File of the image in the validation split.
        train: Annotations of the training split.
        val: Annotations of the validation split.
    """
    files = f"{a}" if a == b else f"{a} and {b}, which are the same image,"
    verb = "is" if a == b else "are"
    return fault(
        "shared image",
        f"{files} {verb} in training ({train.path}) and in validation ({val.path}): remove it from one of them, "
        "or use one annotation file for both if that is intended.",
    )


def _same_content(a: Path, b: Path) -> bool:
    try:
        return a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False
