"""What a run was made with: code, versions, host, devices, Slurm jobs. Facts that are not to be had are None.

The environment's variables are never recorded; `redact` takes secrets out of the text that is.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

GIT_TIMEOUT = 10.0
"""Seconds; a repository on a slow file system must not hold up a run."""
LONGEST_DIFF = 200_000
"""Characters of a diff that are kept."""
REDACTED = "<redacted>"
SNAPSHOT_FILE = "snapshot.json"
"""Beside a copy of the package: the facts of the repository that it was copied from."""

_SECRET_NAME = (
    r"(?:(?:api|access|private|secret|auth|wandb)[_-]?key|token|secret|password|passwd|passphrase|credentials?)"
)
_VALUE = (
    r"""[rbfu]{0,2}(?:(?P<quote>\"{3}|'{3})(?:\\.|(?!(?P=quote)).)*(?P=quote)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?"""
    r"""|[^\s"',;}]+(?:["']\w+)*)"""
)
_OPENED = r"(?:[(\[]\s*(?:\+\s*)?)?"
"""A value in brackets, on a line of its own that a diff may have added."""
_SECRETS = [
    # `api_key: str = VALUE`, `"token": VALUE`, `environ["API_KEY"] = VALUE`
    re.compile(
        rf"(?P<name>{_SECRET_NAME}\\?[\"']?\]?[ \t]*(?::[ \t]*[\w.\[]*\b(?:str|bytes|Any)\b[\] |None]*=|[:=]=?>?)"
        rf"[ \t]*{_OPENED}){_VALUE}",
        re.IGNORECASE | re.DOTALL,
    ),
    # `setdefault("API_KEY", VALUE)`
    re.compile(
        rf"(?P<name>\(\s*[\"'][\w.-]*{_SECRET_NAME}[\"']\s*,\s*)(?=[rbfu]{{0,2}}[\"']){_VALUE}",
        re.IGNORECASE | re.DOTALL,
    ),
    # `wandb.login(key=VALUE)`
    re.compile(rf"(?P<name>\blogin\([^()]{{0,200}}?\bkey\s*=\s*){_VALUE}", re.IGNORECASE | re.DOTALL),
    # Keys of Weights & Biases: the older ones look like commits and are known by what stands before them.
    re.compile(
        rf"(?P<name>(?:wandb[\w.]{{0,20}}|key|login|{_SECRET_NAME})\b(?:[ \t]--?[a-z][\w-]{{0,20}}){{0,4}}"
        r"[^\w\n]{1,12})\b[0-9a-f]{40}\b",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<name>)\bwandb_v\d+_\w+"),
]
_SECRET_OPTION = re.compile(rf"--?[\w.-]*{_SECRET_NAME}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"{_SECRET_NAME}$", re.IGNORECASE)


def git_facts(folder: Path) -> dict[str, Any] | None:
    """Commit, whether anything differs from it, and the difference of the tracked files; None outside a repository.

    A folder that merely lies inside someone's repository, as an installed package in a virtual environment does, is
    not that repository's code: its files must be tracked. A copy that jobs run has its repository's facts beside it.
    """
    with suppress(OSError, ValueError):
        recorded: dict[str, Any] | None = json.loads((folder.parent / SNAPSHOT_FILE).read_text(encoding="utf-8"))
        return recorded
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ":/")
    diff = _git(folder, "diff", "HEAD") if changes else ""
    if diff is not None and len(diff) > LONGEST_DIFF:
        diff = f"{diff[:LONGEST_DIFF]}\n[{len(diff) - LONGEST_DIFF} more characters]\n"
    return {
        "commit": commit.strip() if commit else None,
        "dirty": None if changes is None else bool(changes),
        "diff": None if diff is None else redact(diff),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints; None where git or the repository is missing, or the answer takes too long."""
    # A hook that starts a run leaves variables behind that point git to another repository.
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


def versions() -> dict[str, str | None]:
    """Versions of what computes the numbers."""
    import torch

    packages = ("torch", "torchvision", "numpy", "pycocotools", "opencv-python-headless")
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    return found


def slurm_job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job that this process runs in, as `squeue` writes it: `1234`, or `1234_5` in an array."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID") or None


def redact(text: str) -> str:
    """Text without secrets: values given to names such as `api_key`, values of such environment variables, and keys of
    Weights & Biases.
    """
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= 8:
            text = text.replace(value, REDACTED)
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<name>{REDACTED}", text)
    return text


def redact_command(arguments: Sequence[str]) -> str:
    """A command line as a shell reads it, without secrets (`api_key=...`, `--token ...`)."""
    safe: list[str] = []
    for argument in arguments:
        if safe and _SECRET_OPTION.match(safe[-1]):
            safe.append(REDACTED)
            continue
        name, equals, _ = argument.partition("=")
        secret = bool(equals) and _SECRET_VARIABLE.search(name) is not None
        safe.append(f"{name}={REDACTED}" if secret else redact(argument))
    return shlex.join(safe)
