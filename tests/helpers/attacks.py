"""Objects that would run code when they are unpickled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __call__(self) -> None:
        """Make the object callable: pickle requires it of the function that it calls."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def leave_trace(path: str) -> None:
    Path(path).touch()


class Trap:
    """A class of a framework that leaves a trace when it is created, or when its methods are called."""

    system = os.system

    def __init__(self, trace: str) -> None:
        leave_trace(trace)

    @staticmethod
    def run(trace: str) -> None:
        leave_trace(trace)


def attack_numpy(trace: str) -> Call:
    from numpy.testing._private.utils import runstring

    return Call(runstring, f"open({trace!r}, 'w').close()", {})


ATTACKS: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda trace: Call(os.system, f"touch {trace}"), "posix.system"),
    "eval": (lambda trace: Call(eval, f"open({trace!r}, 'w')"), "builtins.eval"),
    "exec": (lambda trace: Call(exec, f"open({trace!r}, 'w')"), "builtins.exec"),
    "Popen": (lambda trace: Call(subprocess.Popen, ["touch", trace]), "subprocess.Popen"),
    "Path.touch": (lambda trace: Call(Path.touch, Path(trace)), "builtins.getattr"),
    "bound method": (lambda trace: Call(Path(trace).touch), "builtins.getattr"),
    "open": (lambda trace: Call(open, trace, "w"), "io.open"),
    "numpy.testing": (attack_numpy, "numpy.testing._private.utils.runstring"),
    "function of mm*": (lambda trace: Call(leave_trace, trace), "mmengine.hooks.leave_trace"),
    "method of mm*": (lambda trace: Call(Trap.run, trace), "builtins.getattr"),
    "attribute of mm*": (lambda trace: Call(Call(getattr, Trap, "system"), f"touch {trace}"), "builtins.getattr"),
    "getattr twice": (
        lambda trace: Call(Call(getattr, Call(getattr, Trap, "run"), "__call__"), trace),
        "builtins.getattr",
    ),
    "map": (lambda trace: Call(list, Call(map, leave_trace, [trace])), "builtins.map"),
    "__import__": (lambda trace: Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {trace}"), "__import__"),
}
"""By name: what makes the object, given the path of a file that the code would create, and words of the refusal."""
