"""Copy of the code that a submission's jobs run, so that later changes of the working copy do not affect them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

import htc
from htc.errors import UserError
from htc.runs.provenance import SNAPSHOT_FILE, git_facts

CODE_FOLDERS = ("htc", "conf", "sweeps")
"""Folders below the code's root that are copied with all their Python and YAML files."""
PLUGIN_FOLDER = "hydra_plugins"
PLUGIN_FILES = "hydra_plugins/htc_*.py"
"""This project's files in a namespace package that other distributions share."""
NOT_COPIED = ("analysis", "benchmarks", "docs", "tests")
"""Folders beside them that jobs do not need."""
NO_DATA = ("py.typed",)
"""Files of a package that it does not read."""
CODE_SUFFIXES = {".py", ".yaml"}
"""Files with another suffix are not copied: they may hold secrets."""


def freeze_code(folder: Path) -> Path:
    """Copy the code as it is now, with uncommitted changes and new files, and return the root of the copy.

    The copy is a folder below `folder` that is named by its content, so that equal code is copied once. Raises
    UserError if it cannot be written.
    """
    root = Path(htc.__file__).resolve().parents[1]
    facts = json.dumps(git_facts(root / "htc"), indent=2)
    contents = {name: (root / name).read_bytes() for name in code_files(root)}
    digest = hashlib.sha256(facts.encode())
    for name, content in contents.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    unfinished = folder / f".{copy.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name, content in contents.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (unfinished / SNAPSHOT_FILE).write_text(facts + "\n")
        try:
            unfinished.rename(copy)
        except OSError:
            # Another launch may have copied the same code at the same moment.
            if not copy.is_dir():
                raise
    except OSError as error:
        raise UserError(f"the code could not be copied to {folder} ({error.strerror}): make it writable.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy


def code_files(root: Path) -> list[str]:
    """Return the Python and YAML files to copy, relative to the code's root.

    Besides the project's own, these are the packages and modules that a user has put beside `htc`. In a git repository,
    only tracked files and those that git does not ignore are copied. Files and folders whose name starts with a dot are
    left out.
    """
    names = _present_files(root)
    packages = _user_packages(names)
    return [name for name in names if _is_code(PurePath(name), packages) and (root / name).is_file()]


def other_files(root: Path) -> list[str]:
    """Return the files beside the code that are not copied, such as data that it reads."""
    names = _present_files(root)
    folders = {"htc", *_user_packages(names)}
    paths = [PurePath(name) for name in names]
    return [
        str(path)
        for path in paths
        if path.parts[0] in folders and path.suffix not in (*CODE_SUFFIXES, ".pyc", ".md") and path.name not in NO_DATA
        and not any(part.startswith(".") for part in path.parts) and (root / path).is_file()
    ]  # fmt: skip


def code_remarks() -> list[str]:
    """Return what jobs read besides the copy of the code, one sentence for each place."""
    root = Path(htc.__file__).resolve().parents[1]
    remarks = []
    if files := other_files(root):
        listed = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        remarks.append(f"only Python and YAML files are copied for the jobs, not {listed}: read them by a full path.")
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        path = Path(entry).resolve()
        if path != root and (any(path.glob("*.py")) or any(path.glob("*/__init__.py"))):
            remarks.append(f"jobs import from {path} (PYTHONPATH) as it is when they run: it is not copied.")
    return remarks


def _present_files(root: Path) -> list[str]:
    """Return the files below the code's root: without git, those in the folders of the project only."""
    if (root / SNAPSHOT_FILE).is_file():
        # A copy: all of its files were chosen before.
        return _files_below(root)
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        answer = subprocess.run(command, capture_output=True, timeout=30, env=environment, check=True)
        names = sorted(set(answer.stdout.decode().split("\0")) - {""})
    except (OSError, subprocess.SubprocessError):
        names = []
    if any(name.startswith("htc/") for name in names):
        return names
    # Without git, `root` may be the folder of all installed packages.
    return sorted(name for folder in (*CODE_FOLDERS, PLUGIN_FOLDER) for name in _files_below(root, folder))


def _user_packages(names: Sequence[str]) -> set[str]:
    """Return the names of the packages that a user has put beside `htc`."""
    parts = [PurePath(name).parts for name in names]
    return {each[0] for each in parts if len(each) == 2 and each[1] == "__init__.py"} - {*NOT_COPIED, "htc"}


def _is_code(path: PurePath, packages: Collection[str]) -> bool:
    if path.suffix not in CODE_SUFFIXES or any(part.startswith(".") for part in path.parts):
        return False
    if path.parts[0] == PLUGIN_FOLDER:
        return path.match(PLUGIN_FILES)
    is_module = len(path.parts) == 1 and path.suffix == ".py"
    return is_module or path.parts[0] in (*CODE_FOLDERS, *packages)


def _files_below(root: Path, folder: str = ".") -> list[str]:
    found = (path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file())
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)
