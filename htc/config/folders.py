"""Where configuration files are: the shipped ones, and the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import htc
from htc.errors import UserError

USER_FOLDER_VARIABLE = "HTC_CONFIG_DIR"


def shipped_folder(name: str) -> Path:
    """Return a folder of files that is next to the package in a checkout and inside it in an installed wheel."""
    package = Path(htc.__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


CONFIG_FOLDER = shipped_folder("conf")
SWEEPS_FOLDER = shipped_folder("sweeps")
NO_CHOICES = ("experiment=null",)
"""Overrides that choose nothing from a group whose default is nothing: they are left out."""
POOL_MARKS = {".sweeps", ".locks", "run.json", "annotations"}
"""Names in folders of runs, in runs and in data sets, which may be below a user's folder."""
SWEEPS_GROUP = "sweeps"
"""Hydra's group of the sweep files. The key `sweep` exists already, so the group has another name."""


def user_folder() -> Path | None:
    """Return the user's folder of groups and sweeps, HTC_CONFIG_DIR; None where it is not set.

    Raises UserError where it is not a folder.
    """
    name = os.environ.get(USER_FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            f"{USER_FOLDER_VARIABLE}={name} is not a folder: set it to a folder with groups such as model/ or sweeps/, "
            "or unset it."
        )
    return folder


def config_folders(arguments: Sequence[str] | None = None) -> list[Path]:
    """Return the folders that Hydra reads groups from: the shipped one, `--config-dir`, and HTC_CONFIG_DIR.

    arguments: the command line without the program; None for that of this process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    folders = [CONFIG_FOLDER]
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            folders += [Path(value)] if equals else [Path(following) for following in arguments[i + 1 : i + 2]]
    if (folder := user_folder()) is not None:
        folders.append(folder)
    return folders


def refuse_hidden_files(folder: Path) -> None:
    """Raise UserError where a user's file has the name of a shipped one: Hydra would silently use the shipped file."""
    if folder.resolve() == CONFIG_FOLDER:
        return
    for path in sorted(path for group in _group_folders(folder) for path in group.glob("*.yaml")):
        name = path.relative_to(folder)
        shipped = SWEEPS_FOLDER / name.name if name.parent == Path(SWEEPS_GROUP) else CONFIG_FOLDER / name
        if shipped.is_file():
            raise UserError(
                f"{path} has the name of {shipped}, which would be used in its place: rename or remove one of them."
            )


def config_groups() -> list[str]:
    """Return the names of all groups, such as `model` or `hydra/launcher`."""
    found = {
        str(group.relative_to(folder))
        for folder in config_folders()
        for group in _group_folders(folder)
        if group != folder
    }
    return sorted({*found, SWEEPS_GROUP})


def _group_folders(folder: Path) -> Iterator[Path]:
    """Yield a folder of groups and all folders below it, but for hidden ones and those of runs and data."""
    for path, names, files in os.walk(folder):
        if Path(path) != folder and POOL_MARKS & {*names, *files}:
            names.clear()
            continue
        yield Path(path)
        names[:] = sorted(name for name in names if not name.startswith("."))


def group_options(group: str) -> list[str]:
    """Return the options of a group, from the shipped and the user's files."""
    folders = [folder / group for folder in config_folders()]
    if group == SWEEPS_GROUP:
        folders.append(SWEEPS_FOLDER)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
