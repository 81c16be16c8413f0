"""The project's commands in processes of their own, as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The project's root, from which commands run."""
Command = Callable[..., subprocess.CompletedProcess[str]]
"""`command` of this module, or the same with some of its parameters given."""


def clean_environment(*prefixes: str, **variables: str) -> dict[str, str]:
    """Return this process's environment without the variables that would change what a command does.

    Args:
        prefixes: Beginnings of the names to leave out, besides those of wandb's and Slurm's variables.
        variables: Variables to add or replace.
    """
    left_out = ("WANDB_", "SLURM_", *prefixes)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def command(
    module: str,
    *arguments: object,
    cwd: Path = ROOT,
    timeout: float = 600,
    environment: Mapping[str, str] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS`, or `python FILE ARGUMENTS` where `module` is the path of a script.

    Args:
        module: Name of a module, or a path that ends in `.py`; a relative path starts at the project's root.
        arguments: Arguments of the command; each is converted by `str`.
        cwd: Folder in which the command runs.
        timeout: Seconds after which the command is killed and the test fails.
        environment: All variables of the process; None: those of `clean_environment`.
        variables: Variables to add or replace.
    """
    return run(command_line(module, *arguments), cwd, timeout, {**(environment or clean_environment()), **variables})


def start(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start the same without waiting for it; `options` are those of `subprocess.Popen`, which pipes both outputs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: subprocess.Popen[str] = subprocess.Popen(
        command_line(module, *arguments), cwd=ROOT, env=environment or clean_environment(), text=True,
        **{**pipes, **options},
    )  # fmt: skip
    return process


def run_code(
    code: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -c CODE ARGUMENTS` in the same way."""
    return run([sys.executable, "-c", code, *map(str, arguments)], ROOT, 600, environment or clean_environment())


def run(
    words: list[str], cwd: Path, timeout: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command line with no terminal to ask at, and return its outputs as text."""
    return subprocess.run(
        words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
        timeout=timeout,
    )  # fmt: skip


def command_line(module: str, *arguments: object) -> list[str]:
    """Return the words of the command line that `command` runs."""
    program = [str(ROOT / module)] if module.endswith(".py") else ["-m", module]
    return [sys.executable, *program, *map(str, arguments)]
