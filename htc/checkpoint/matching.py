"""Loading of state dicts into a model: completely, or the tensors that fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from htc.errors import UserError

logger = logging.getLogger(__name__)
OPTIONAL_BUFFER = "num_batches_tracked"
"""Buffer in which batch norms count their batches: some files of other frameworks lack it, and the models ignore it."""
MAX_SHOWN = 10
"""A message names at most this many tensors of each kind."""


@dataclass
class StateDictMismatch:
    """Differences between the tensors of a file and of a model, by name; false if there are none."""

    missing: list[str]
    """Names of tensors of the model that the file lacks."""
    unexpected: list[str]
    """Names of tensors of the file that the model lacks."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Shape in the file and shape in the model of tensors whose shapes differ."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def description(self, name: Callable[[str], str] = str) -> str:
        """Describe the differences: `2 missing (a, b); 1 of another shape (c: [3] instead of [4])`.

        `name` translates the model's names to the names that are shown.
        """
        shapes = [
            f"{name(key)}: {list(in_file)} instead of {list(in_model)}"
            for key, (in_file, in_model) in self.shapes.items()
        ]
        lists = {
            "missing": [name(key) for key in self.missing],
            "unexpected": self.unexpected,
            "of another shape": shapes,
        }
        return "; ".join(f"{len(names)} {kind} ({_shortened(names)})" for kind, names in lists.items() if names)


def compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> StateDictMismatch:
    """Compare the state dict of a model, `own`, with the tensors of a file, `given`."""
    shapes = {key: (tuple(given[key].shape), tuple(own[key].shape)) for key in own if key in given}
    return StateDictMismatch(
        missing=sorted(key for key in own if key not in given and not key.endswith(OPTIONAL_BUFFER)),
        unexpected=sorted(key for key in given if key not in own and not key.endswith(OPTIONAL_BUFFER)),
        shapes={key: pair for key, pair in sorted(shapes.items()) if pair[0] != pair[1]},
    )


def check_state_dict(model: nn.Module, given: Mapping[str, Tensor], source: str) -> None:
    """Check that `given` fits the model completely. The model may be on the meta device.

    Raises UserError, naming `source` and listing the differences, if it does not.
    """
    refuse(compare(model.state_dict(), given), source)


def refuse(mismatch: StateDictMismatch, source: str, name: Callable[[str], str] = str) -> None:
    """Raise UserError, naming `source` and listing the differences, if there are any."""
    if mismatch:
        raise UserError(
            f"{source} does not fit the model: {mismatch.description(name)}; choose the model that it was trained as, "
            "or checkpoint.partial=true to load what fits and leave the rest as initialised."
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
    """Load the tensors of a file into the model.

    Args:
        model: the model, whose tensors are overwritten.
        given: tensors by our names.
        source: key and value of the configuration that name the file, for messages.
        partial: load only the tensors that fit by name and shape, and log the differences.
        unexpected: names of further tensors of the file that the model has no place for.
        name: returns the file's name for one of our names, for messages.

    Raises UserError, naming `source` and listing the differences, if not every tensor fits; with `partial`, if none
    fits.
    """
    own = model.state_dict()
    mismatch = compare(own, given)
    mismatch.unexpected = sorted([*(name(key) for key in mismatch.unexpected), *unexpected])
    if not partial:
        refuse(mismatch, source, name)
    not_plain = [key for key, value in given.items() if key in own and not is_plain(value)]
    if not_plain:
        raise UserError(f"{source} holds {name(not_plain[0])} in another form than plain numbers: save dense tensors.")
    fitting = {key: value for key, value in given.items() if key in own and key not in mismatch.shapes}
    if not fitting:
        raise UserError(f"{source} has nothing that fits the model: {mismatch.description(name)}.")
    model.load_state_dict(fitting, strict=False)
    if mismatch:
        logger.warning(
            "%s was loaded in part (%d of %d tensors): %s", source, len(fitting), len(own), mismatch.description(name)
        )


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is a dense array of real numbers in the CPU's memory, neither sparse nor quantised."""
    return (
        tensor.layout is torch.strided and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_nested)
    )  # fmt: skip


def _shortened(names: Sequence[str]) -> str:
    """Join the first names, and append the number of the others."""
    more = f", and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
