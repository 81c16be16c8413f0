"""Run commands in processes forked from one that has imported everything, so that a command starts at once."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def import_everything() -> None:
    """Import what the commands import; forked processes have it then."""
    import wandb  # noqa: F401

    importlib.import_module("htc.run")
    importlib.import_module("htc.experiment")
    torch.set_num_threads(1)
    # The warning is about locks that another thread holds during the fork; the parent has one thread at this point.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)


def start(module: str, arguments: list[str], log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Fork a process that runs `python -m MODULE ARGUMENTS`, and return its id.

    Args:
        module: Name of the module, such as `htc.run`.
        arguments: Arguments of the command.
        log: File that receives standard output and standard error.
        prepare: Called in the new process before the command.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        prepare()
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the traceback goes to the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # `sys.exit` would run the interpreter's exit hooks, which delete temporary folders of the parent.
        os._exit(status)


def wait(process: int) -> int:
    """Wait for the end of a process, and return its exit status: minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_ended(process: int) -> bool:
    """Return whether a process has ended, and leave its status for `wait`."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
