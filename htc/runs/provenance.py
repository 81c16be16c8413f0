"""The origin of a run: its code, versions and Slurm job. Facts that cannot be found are None.

Environment variables are never recorded, and `htc.runs.redaction` removes secrets from the recorded text.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from htc.runs.redaction import redact

GIT_TIMEOUT = 10.0
"""Seconds that a git command may take: a repository on a slow file system must not delay a run."""
MAX_DIFF = 200_000
"""Largest number of characters of a diff that is recorded."""
SNAPSHOT_FILE = "snapshot.json"
"""File next to a copy of the package, with the facts of the repository that the copy was made from."""
PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "opencv-python-headless")
"""Packages that compute the numbers."""


def git_facts(folder: Path) -> dict[str, Any] | None:
    """Return the commit, whether the work tree differs from it, and the diff of tracked files.

    None outside of a repository. A folder whose files are not tracked, such as a package that is installed in a virtual
    environment inside of a repository, is not a part of it. A copy that jobs run has the facts of its repository in a
    file next to it.
    """
    with suppress(OSError, ValueError):
        recorded: dict[str, Any] | None = json.loads((folder.parent / SNAPSHOT_FILE).read_text(encoding="utf-8"))
        return recorded
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ":/")
    diff = _git(folder, "diff", "HEAD") if changes else ""
    if diff is not None and len(diff) > MAX_DIFF:
        diff = f"{diff[:MAX_DIFF]}\n[{len(diff) - MAX_DIFF} more characters]\n"
    return {
        "commit": commit.strip() if commit else None,
        "dirty": None if changes is None else bool(changes),
        "diff": None if diff is None else redact(diff),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python, CUDA and the packages that compute the numbers."""
    import torch

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    return found


def slurm_job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the Slurm job of this process as `squeue` writes it: `1234`, or `1234_5` in an array; else None."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID") or None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None where git or the repository is missing, or git is too slow."""
    # A git hook that starts a run sets variables that point git to another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, timeout=GIT_TIMEOUT, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None
