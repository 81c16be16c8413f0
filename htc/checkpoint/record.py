"""The content of a checkpoint of this project, and the checks of a file of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from htc.errors import UserError

Weights = dict[str, Tensor]


@dataclass
class Categories:
    """The categories of the data set, by class index."""

    ids: list[int] | None
    """Category ids of the data set; None where they are not known."""
    names: list[str]


@dataclass
class ProcessState:
    """The state that each process of a run has of its own."""

    random: dict[str, Any]
    """Random states, as `htc.engine.rng.random_state` returns them."""
    losses: dict[str, Any]
    """State of the loss meter since the last line of metrics.jsonl."""


@dataclass
class TrainingState:
    """Everything that training continues from, except the weights. The sampler's position follows from the step."""

    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    ema_updates: int
    overflows: int
    training_seconds: float
    processes: list[ProcessState]
    metrics_length: int
    """Bytes of metrics.jsonl when the checkpoint was written."""


@dataclass
class Checkpoint:
    """The weights of a run, the configuration and categories they were trained with, and the state of training.

    On disk it is one flat dict: the fields of TrainingState are next to the others.
    """

    model: Weights
    config: dict[str, Any]
    """The run's configuration, as config.yaml holds it."""
    categories: Categories
    step: int
    ema: Weights | None = None
    """Moving average of the weights, where the run keeps one."""
    unused: Weights = field(default_factory=dict)
    """Tensors of an imported checkpoint that the network does not use, under the other framework's names."""
    training: TrainingState | None = None
    """None in a converted checkpoint, from which no run can continue."""

    @property
    def evaluated_weights(self) -> Weights:
        """The weights to evaluate: the moving average where there is one."""
        return self.ema or self.model

    def to_content(self) -> dict[str, Any]:
        """Return the dict of tensors and plain values that the file holds."""
        content: dict[str, Any] = {
            "model": self.model,
            "ema": self.ema,
            "step": self.step,
            "config": self.config,
            "categories": vars(self.categories),
            "unused": self.unused,
        }
        if self.training is not None:
            content |= {**vars(self.training), "processes": [vars(process) for process in self.training.processes]}
        return content

    @classmethod
    def from_content(cls, content: Any, source: str) -> Checkpoint | None:
        """Return the checkpoint that a file of this project holds; None for a file of another origin.

        Whether the weights match the network is checked when they are loaded. Raises UserError, naming `source` and
        the entry, for a value that no checkpoint of this project has.
        """
        if not (isinstance(content, dict) and {"model", "config", "categories"} <= set(content)):
            return None
        expected = {
            "model": (is_weights(content["model"]), "tensors by name"),
            "ema": (content.get("ema") is None or is_weights(content["ema"]), "tensors by name"),
            "unused": (is_weights(content.get("unused", {})), "tensors by name"),
            "config": (isinstance(content["config"], dict), "a run's configuration"),
            "categories": (is_categories(content["categories"]), "a name and a unique id for each category"),
            "step": (is_count(content.get("step")), "a number of steps"),
        }
        for entry, (valid, description) in expected.items():
            if not valid:
                raise UserError(
                    f"{source} is damaged, or not a checkpoint of this project: its `{entry}` is not {description}."
                )
        categories = content["categories"]
        return cls(
            model=content["model"],
            config=content["config"],
            categories=Categories(categories["ids"], categories["names"]),
            step=content["step"],
            ema=content.get("ema"),
            unused=content.get("unused", {}),
            training=_training_state(content),
        )


def _training_state(content: Mapping[str, Any]) -> TrainingState | None:
    """Return the state of training that a file holds; None where a part of it is missing."""
    names = [item.name for item in fields(TrainingState)]
    if not set(names) <= set(content):
        return None
    values = {name: content[name] for name in names}
    try:
        processes = [ProcessState(state["random"], state["losses"]) for state in values["processes"]]
    except (TypeError, KeyError, IndexError):
        return None
    return TrainingState(**{**values, "processes": processes})


def is_weights(value: Any) -> bool:
    """Return whether the value is a dict of tensors by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def is_count(value: Any) -> bool:
    """Return whether the value is a whole number of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_categories(value: Any) -> bool:
    """Return whether the value is a dict with the `ids` (null where not known) and `names` of categories."""
    if not isinstance(value, dict) or not isinstance(value.get("names"), list) or "ids" not in value:
        return False
    names, ids = value["names"], value["ids"]
    if not names or not all(isinstance(name, str) for name in names):
        return False
    return ids is None or (
        isinstance(ids, list) and all(map(is_count, ids)) and len(ids) == len(names) == len(set(ids))
    )
