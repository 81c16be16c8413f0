"""Copy of the code that a submission's jobs run, so that later changes of the working copy do not affect them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path, PurePath

import htc
from htc.errors import UserError
from htc.runs.provenance import SNAPSHOT_FILE, git_facts

CODE_FOLDERS = ("htc", "conf", "sweeps")
"""Folders below the code's root that are copied with all their Python and YAML files."""
PLUGIN_FOLDER = "hydra_plugins"
PLUGIN_FILES = "hydra_plugins/htc_*.py"
"""This project's files in a namespace package that other distributions share."""
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

    In a git repository these are the tracked files and those that git does not ignore, elsewhere all files. Files and
    folders whose name starts with a dot are left out.
    """
    if (root / SNAPSHOT_FILE).is_file():
        names = _all_files(root)
    else:
        folders = (*CODE_FOLDERS, PLUGIN_FOLDER)
        command = [
            "git",
            "-C",
            str(root),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            *folders,
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        try:
            answer = subprocess.run(command, capture_output=True, timeout=30, env=environment, check=True)
            names = sorted(set(answer.stdout.decode().split("\0")) - {""})
        except (OSError, subprocess.SubprocessError):
            names = []
        if not any(name.startswith("htc/") for name in names):
            names = _all_files(root)
    return [name for name in names if _is_code(PurePath(name)) and (root / name).is_file()]


def _is_code(path: PurePath) -> bool:
    if path.suffix not in CODE_SUFFIXES or any(part.startswith(".") for part in path.parts):
        return False
    return path.parts[0] != PLUGIN_FOLDER or path.match(PLUGIN_FILES)


def _all_files(root: Path) -> list[str]:
    found = (
        path.relative_to(root)
        for folder in (*CODE_FOLDERS, PLUGIN_FOLDER)
        for path in (root / folder).rglob("*")
        if path.is_file()
    )
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)
