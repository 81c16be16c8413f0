"""`python -m htc.replay FILE [device=cpu] [precision=fp32]`: repeat a step that was not finite, and show where.

The file is in the `replay/` folder of a run that stopped on a loss or a gradient that is not finite; it holds the
weights, the images and their objects. Another precision shows whether the precision is the cause.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from htc.checkpoint.matching import compare, load_weights
from htc.cli import read_arguments, run_command
from htc.config.compose import recorded_config
from htc.config.schema import Config
from htc.distributed.devices import choose_device
from htc.engine.precision import autocast_of
from htc.engine.replay_file import ReplayFile
from htc.errors import UserError
from htc.models.detector import Detector, build_detector, build_meta_detector
from htc.structures import IGNORE_LABEL, Sample

USAGE = "python -m htc.replay FILE [KEY=VALUE ...]"
SHOWN = 5
"""Largest number of names listed per kind."""


@dataclass
class Replay:
    """The result of a repeated step."""

    losses: list[dict[str, float]] = field(default_factory=list)
    """Losses by name, one dict per micro-batch."""
    modules: list[str] = field(default_factory=list)
    """Modules with an output that is not finite, in order of computation."""
    gradients: list[str] = field(default_factory=list)
    """Parameters with a gradient that is not finite."""
    weights: list[str] = field(default_factory=list)
    """Parameters that were not finite before the step."""

    @property
    def finite(self) -> bool:
        """Whether all losses and gradients are finite."""
        values = [value for losses in self.losses for value in losses.values()]
        return all(map(math.isfinite, values)) and not self.gradients


def main() -> None:
    arguments = read_arguments(sys.argv[1:], {}, USAGE, max_words=1)
    files = arguments.words
    if len(files) != 1:
        raise UserError(f"give one file of a run's replay folder; usage: {USAGE}.")
    step = ReplayFile.read(Path(files[0]))
    result = replay(step, arguments.overrides, files[0])
    print(report(step, result))
    sys.exit(1 if result.finite else 0)


def replay(step: ReplayFile, overrides: list[str], source: str) -> Replay:
    """Compute forward and backward of all micro-batches of a step, on one device and without an update.

    Raises UserError, naming `source`, where the overrides make another model than that of the step.
    """
    config = recorded_config(step.config, overrides)
    config.backbone.weights = None
    num_classes = len(step.categories.names)
    mismatch = compare(build_meta_detector(config, num_classes).state_dict(), step.model)
    if mismatch:
        raise UserError(
            f"{source} does not fit the model: {mismatch.description()}; leave out overrides that change the model."
        )
    check_classes(step.micro_batches, config, num_classes, source)
    device = choose_device(config.device)
    model = build_detector(config, num_classes)
    load_weights(model, step.model, source)
    model = model.to(device).train()
    autocast = autocast_of(config.precision, device)
    result = Replay(weights=not_finite(dict(model.named_parameters())))
    record_nonfinite_outputs(model, result.modules)
    for samples in step.micro_batches:
        images = [sample.image.to(device) for sample in samples]
        targets = [sample.targets.to(device) for sample in samples if sample.targets]
        with autocast():
            losses = model(images, targets)
            loss = sum(losses.values(), start=torch.zeros((), device=device)) / len(step.micro_batches)
        (step.loss_scale * loss).backward()
        result.losses.append({name: value.item() for name, value in losses.items()})
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    result.gradients = not_finite(gradients)
    return result


def check_classes(micro_batches: list[list[Sample]], config: Config, num_classes: int, source: str) -> None:
    """Raise UserError for objects or pixels of classes that the model does not have, and for missing semantic targets.

    Args:
        micro_batches: the samples of the step.
        config: the run's configuration.
        num_classes: number of foreground classes of the model.
        source: the file's name in the message.
    """
    for targets in (sample.targets for samples in micro_batches for sample in samples):
        assert targets is not None
        labels, pixels = targets.labels, targets.semantic
        valid = bool(((labels >= 0) & (labels < num_classes)).all())
        if valid and config.model.semantic:
            limit = config.data.semantic_classes
            valid = pixels is not None and bool(((pixels < limit) | (pixels == IGNORE_LABEL)).all())
        if not valid:
            raise UserError(f"{source} has objects or pixels of classes that its model does not have: it is damaged.")


def record_nonfinite_outputs(model: Detector, found: list[str]) -> None:
    """Append to `found` the names of modules without children whose output is not finite, as they are computed."""

    def recorder(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all() and name not in found:
                found.append(name)

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(recorder(name))


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that have a value that is not finite."""
    return [name for name, value in tensors.items() if not value.isfinite().all()]


def report(step: ReplayFile, result: Replay) -> str:
    """Return the result of the step as lines for the terminal."""
    images = [sample.image_id for samples in step.micro_batches for sample in samples]
    lines = [f"step {step.step}, images {', '.join(map(str, images))}"]
    for losses in result.losses:
        lines += [f"  {name:<20} {value:.6g}" for name, value in losses.items()]
    for kind, names in (
        ("weights before the step", result.weights),
        ("outputs, in order of computation", result.modules),
        ("gradients", result.gradients),
    ):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"{kind} that are not finite: {', '.join(names[:SHOWN]) or 'none'}{more}")
    lines.append("all values are finite here: not reproduced" if result.finite else "reproduced")
    return "\n".join(lines)


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
