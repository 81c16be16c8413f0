"""The code of a submission: a copy that jobs run, whatever happens to the working copy after it."""

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

PARTS = ("htc", "conf", "sweeps", "hydra_plugins")
SUFFIXES = {".py", ".yaml"}
"""Of what code and configuration are made; whatever else lies beside them may be anybody's secret."""


def freeze_code(folder: Path) -> Path:
    """Copy the code as it is now, uncommitted changes and new files included -> the copy's root below `folder`.

    The copy is named by its content: equal code is kept once. Raises UserError where it cannot be written.
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
            # Somebody else froze the same code at the same moment.
            if not copy.is_dir():
                raise
    except OSError as error:
        raise UserError(f"the code could not be copied to {folder} ({error.strerror}): make it writable.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy


def code_files(root: Path) -> list[str]:
    """Python and YAML files relative to the code's root: those that git knows or would take up, or all without git.

    What has a name, or lies in a folder, that starts with a dot is left out.
    """
    if (root / SNAPSHOT_FILE).is_file():
        names = _all_files(root)
    else:
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
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
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _all_files(root: Path) -> list[str]:
    found = (path.relative_to(root) for part in PARTS for path in (root / part).rglob("*") if path.is_file())
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)
