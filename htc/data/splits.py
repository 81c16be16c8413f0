"""What training and validation must and must not have in common."""

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
ENOUGH = 20
"""So many shared files tell enough; comparing contents takes time."""


def check_splits(train: CocoDataset, val: CocoDataset) -> None:
    """Refuse a pair of splits whose metrics would mean nothing. Raises UserError.

    Takes seconds: files are compared by content only where name and size are the same in both folders;
    `htc.data.check` compares all.
    """
    problems = category_problems(train.annotations, val.annotations)
    problems += shared_files(train.annotations, val.annotations, train.images.tolist(), val.images.tolist())
    refuse(problems)
    for problem in problems:
        logger.warning("%s", problem.sentence)


def category_problems(train: Annotations, val: Annotations) -> list[Problem]:
    """Categories that are not the same in both files: the labels of one would mean other things in the other."""
    ours = dict(zip(train.category_ids, train.category_names, strict=True))
    theirs = dict(zip(val.category_ids, val.category_names, strict=True))
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))

    def named(names: dict[int, str], key: int) -> str:
        return repr(names[key]) if key in names else "missing"

    return [
        fault(
            "categories differ",
            f"category {key} is {named(ours, key)} in {train.path} and {named(theirs, key)} in {val.path}: list the "
            "same categories in both files, those without objects too.",
        )
        for key in different
    ]


def shared_files(train: Annotations, val: Annotations, of_train: list[int], of_val: list[int]) -> list[Problem]:
    """Image files that both splits use; `of_train` and `of_val` are positions of images.

    Where both splits name one annotation file, that is meant (learning a few images by heart) and worth a note. In two
    files it is a mistake that makes the metrics too good. Ids are not compared: each file counts its own.
    """
    if train.path.resolve() == val.path.resolve():
        return [Problem(Severity.note, "one file for both", f"training and validation both use {train.path}: the "
                        "metrics will tell how well the model knows the images by heart.")]  # fmt: skip
    names = {str(PurePath(train.file_name(image))) for image in of_train}
    common = [name for name in (str(PurePath(val.file_name(image))) for image in of_val) if name in names]
    one_folder = train.images_dir.resolve() == val.images_dir.resolve()
    pairs = ((train.images_dir / name, val.images_dir / name) for name in common)
    shared = [(a, b) for a, b in islice((pair for pair in pairs if one_folder or _same_content(*pair)), ENOUGH)]
    return [shared_image(a, b, train, val) for a, b in shared]


def shared_image(a: Path, b: Path, train: Annotations, val: Annotations) -> Problem:
    files = f"{a}" if a == b else f"{a} and {b}, which are the same image,"
    verb = "is" if a == b else "are"
    return fault(
        "shared image",
        f"{files} {verb} in training ({train.path}) and in validation ({val.path}): take it out of one of them, or "
        "name one annotation file for both if that is meant.",
    )


def _same_content(a: Path, b: Path) -> bool:
    try:
        return a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False
