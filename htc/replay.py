"""`python -m htc.replay FILE [device=cpu] [precision=fp32]`: do the step again that was not finite, and say where.

The file lies in the `replay/` folder of a run that stopped on a loss or a gradient that is not finite; it holds the
weights, the images and their objects. In another precision one sees whether that was the cause.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from htc.cli import read_arguments, recorded_config, run_command
from htc.engine.distributed import choose_device
from htc.engine.nonfinite import sample_of
from htc.engine.precision import autocast_of
from htc.errors import UserError
from htc.loading import load_tensors
from htc.models.detector import Detector, build_detector

USAGE = "python -m htc.replay FILE [KEY=VALUE ...]"
SHOWN = 5


@dataclass
class Replay:
    """What a replayed step gave."""

    losses: list[dict[str, float]] = field(default_factory=list)
    """Of each pass, by name."""
    modules: list[str] = field(default_factory=list)
    """Modules with an output that is not finite, the first to be computed first."""
    gradients: list[str] = field(default_factory=list)
    """Parameters with a gradient that is not finite."""
    weights: list[str] = field(default_factory=list)
    """Parameters that were not finite before the step."""

    @property
    def finite(self) -> bool:
        values = [value for losses in self.losses for value in losses.values()]
        return all(map(math.isfinite, values)) and not self.gradients


def main() -> None:
    arguments = sys.argv[1:]
    files = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    _, overrides = read_arguments([a for a in arguments if a not in files], {}, USAGE)
    if len(files) != 1:
        raise UserError(f"give one file of a run's replay folder; usage: {USAGE}.")
    content = read_replay(Path(files[0]))
    result = replay(content, overrides)
    print(report(content, result))
    sys.exit(1 if result.finite else 0)


def read_replay(path: Path) -> dict[str, Any]:
    """The content of a replay file. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: give one of RUN_DIR/replay.")
    content = load_tensors(path, "replay")
    if not isinstance(content, dict) or content.get("replay") != 1:
        raise UserError(f"{path} is not a replay file: give one of RUN_DIR/replay.")
    return content


def replay(content: dict[str, Any], overrides: list[str]) -> Replay:
    """Forward and backward of all passes of the step, on one device and without an update."""
    config = recorded_config(content["config"], overrides)
    config.backbone.weights = None
    device = choose_device(config.device)
    model = build_detector(config, len(content["categories"]["ids"]))
    model.load_state_dict(content["model"])
    model = model.to(device).train()
    autocast = autocast_of(config.precision, device)
    result = Replay(weights=not_finite(dict(model.named_parameters())))
    watch(model, result.modules)
    for plain_samples in content["passes"]:
        samples = [sample_of(plain) for plain in plain_samples]
        images = [sample.image.to(device) for sample in samples]
        targets = [sample.targets.to(device) for sample in samples if sample.targets]
        with autocast():
            losses = model(images, targets)
            loss = sum(losses.values(), start=torch.zeros((), device=device)) / len(content["passes"])
        (content["loss_scale"] * loss).backward()
        result.losses.append({name: value.item() for name, value in losses.items()})
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    result.gradients = not_finite(gradients)
    return result


def watch(model: Detector, found: list[str]) -> None:
    """Note the modules without children whose output is not finite, as they are computed."""

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all() and name not in found:
                found.append(name)

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(note(name))


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, value in tensors.items() if not value.isfinite().all()]


def report(content: dict[str, Any], result: Replay) -> str:
    """What the step gave, in lines for the terminal."""
    images = [sample["image_id"] for samples in content["passes"] for sample in samples]
    lines = [f"step {content['step']}, images {', '.join(map(str, images))}"]
    for losses in result.losses:
        lines += [f"  {name:<20} {value:.6g}" for name, value in losses.items()]
    for what, names in (
        ("weights before the step", result.weights),
        ("outputs, in order of computation", result.modules),
        ("gradients", result.gradients),
    ):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"{what} that are not finite: {', '.join(names[:SHOWN]) or 'none'}{more}")
    lines.append("all is finite here: not reproduced" if result.finite else "reproduced")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
