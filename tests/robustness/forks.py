"""Commands in processes forked from one that has imported everything: a command starts in no time."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def import_everything() -> None:
    """What a command would import."""
    import wandb  # noqa: F401

    import htc.run
    from htc import experiment

    torch.set_num_threads(1)
    # The parent holds one thread at this point, which is what the warning is about.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    assert htc.run and experiment


def start(module: str, arguments: list[str], log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Fork a process that is `python -m MODULE ARGUMENTS` from its first line on -> its id.

    What it prints goes to `log`; `prepare` is called in it first.
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
    except BaseException:  # noqa: BLE001 - printed into the log of the attempt
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # Without the interpreter's hooks: they would delete temporary folders that the parent has made.
        os._exit(status)


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_ended(process: int) -> bool:
    """Whether a process has ended; its status is left for `wait`."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
