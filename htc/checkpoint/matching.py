"""Putting tensors into a model: all of them exactly, or as many as fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from htc.errors import UserError

logger = logging.getLogger(__name__)
# Batch norms count their batches; files of other origins do not always hold the count, and nothing uses it.
UNCOUNTED = "num_batches_tracked"
SHOWN = 10


@dataclass
class StateDictMismatch:
    """Where the tensors of a file and of a model differ, by name."""

    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Shape in the file and in the model."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def description(self, name: Callable[[str], str] = str) -> str:
        """`2 missing (a, b); 1 of another shape (c: [3] instead of [4])`, with names as `name` gives them."""
        different = [f"{name(key)}: {list(has)} instead of {list(wants)}" for key, (has, wants) in self.shapes.items()]
        lists = {
            "missing": [name(key) for key in self.missing],
            "unexpected": self.unexpected,
            "of another shape": different,
        }
        return "; ".join(f"{len(names)} {kind} ({_shortened(names)})" for kind, names in lists.items() if names)


def compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> StateDictMismatch:
    """Where `given` does not fit a model whose state dict is `own`."""
    shapes = {key: (tuple(given[key].shape), tuple(own[key].shape)) for key in own if key in given}
    return StateDictMismatch(
        missing=sorted(key for key in own if key not in given and not key.endswith(UNCOUNTED)),
        unexpected=sorted(key for key in given if key not in own and not key.endswith(UNCOUNTED)),
        shapes={key: pair for key, pair in sorted(shapes.items()) if pair[0] != pair[1]},
    )


def check_state_dict(model: nn.Module, given: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that do not all fit a model, which needs no memory of its own: it may be on the meta device.

    Raises UserError as `load_weights` does.
    """
    refuse(compare(model.state_dict(), given), source)


def refuse(mismatch: StateDictMismatch, source: str, name: Callable[[str], str] = str) -> None:
    """Raise UserError, naming `source` and listing the differences, where there are any."""
    if mismatch:
        raise UserError(
            f"{source} does not fit the model: {mismatch.description(name)}; choose the model that it was trained as, "
            "or checkpoint.partial=true to load what fits and start the rest anew."
        )


def load_weights(
    model: nn.Module,
    given: Mapping[str, Tensor],
    source: str,
    *,
    partial: bool = False,
    unexpected: Sequence[str] = (),
    name: Callable[[str], str] = str,
) -> None:
    """Load `given` into the model; with `partial`, what fits by name and shape.

    unexpected: further names of the file that belong nowhere; name: the file's own name of one of ours, for messages.
    Raises UserError, naming `source` and listing the differences, where not everything fits or, partially, nothing.
    """
    own = model.state_dict()
    mismatch = compare(own, given)
    mismatch.unexpected = sorted([*(name(key) for key in mismatch.unexpected), *unexpected])
    if not partial:
        refuse(mismatch, source, name)
    strange = [key for key, value in given.items() if key in own and not is_plain(value)]
    if strange:
        raise UserError(f"{source} holds {name(strange[0])} in another form than plain numbers: save dense tensors.")
    fitting = {key: value for key, value in given.items() if key in own and key not in mismatch.shapes}
    if not fitting:
        raise UserError(f"{source} has nothing that fits the model: {mismatch.description(name)}.")
    model.load_state_dict(fitting, strict=False)
    if mismatch:
        logger.warning(
            "%s was loaded in part (%d of %d tensors): %s", source, len(fitting), len(own), mismatch.description(name)
        )


def is_plain(tensor: Tensor) -> bool:
    """Whether it is an array of real numbers in the CPU's memory, neither sparse nor quantised."""
    return (
        tensor.layout is torch.strided and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_nested)
    )  # fmt: skip


def _shortened(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
