"""Hybrid Task Cascade: train, evaluate, record and tabulate instance segmentation experiments.

`compose`, `run`, `load` and `load_model` are for Python and notebooks; see docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htc.api import compose, load, load_model, run

__version__ = "0.2.0"
__all__ = ["compose", "load", "load_model", "run"]


def __getattr__(name: str) -> Any:
    # Imported when used: the commands import this package first, and --help must not import Hydra and PyTorch.
    if name in __all__:
        from htc import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
