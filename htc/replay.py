"""`python -m htc.replay FILE [device=cpu] [precision=fp32]`: do the step again that was not finite, and say where.

The file lies in the `replay/` folder of a run that stopped on a loss or a gradient that is not finite; it holds the
weights, the images and their objects. In another precision one sees whether that was the cause.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from htc.checkpoint.files import is_categories, is_count, is_weights
from htc.checkpoint.matching import compare, is_plain, load_weights
from htc.checkpoint.safe_loading import load_tensors
from htc.cli import read_arguments, run_command
from htc.config.compose import recorded_config
from htc.config.schema import Config
from htc.distributed.processes import choose_device
from htc.engine.nonfinite import sample_of
from htc.engine.precision import autocast_of
from htc.errors import UserError
from htc.models.detector import Detector, build_detector, build_meta_detector
from htc.runs.json_values import number
from htc.structures import IGNORE_LABEL, Sample, Targets

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
    arguments = read_arguments(sys.argv[1:], {}, USAGE, max_words=1)
    files = arguments.words
    if len(files) != 1:
        raise UserError(f"give one file of a run's replay folder; usage: {USAGE}.")
    content = read_replay(Path(files[0]))
    result = replay(content, arguments.overrides, files[0])
    print(report(content, result))
    sys.exit(1 if result.finite else 0)


def read_replay(path: Path) -> dict[str, Any]:
    """The content of a replay file. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: give one of RUN_DIR/replay.")
    content = load_tensors(path, "replay")
    if not isinstance(content, dict) or not is_count(content.get("replay")) or content["replay"] != 1:
        raise UserError(f"{path} is not a replay file: give one of RUN_DIR/replay.")
    for entry, sound in {
        "config": lambda value: isinstance(value, dict),
        "categories": is_categories,
        "model": is_weights,
        "step": is_count,
        "loss_scale": lambda value: number(value) is not None,
        "passes": is_passes,
    }.items():
        if not sound(content.get(entry)):
            raise UserError(f"{path} is damaged: its `{entry}` is not what a run writes; give another of its folder.")
    return content


def is_passes(value: Any) -> bool:
    """Whether it is one or more passes of one or more samples, as `plain_sample` writes them."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(samples, list) and samples and all(map(is_sample, samples)) for samples in value)
    )


def is_sample(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {each.name for each in fields(Sample)}:
        return False
    image, size, targets = value["image"], value["original_size"], value["targets"]
    return (
        is_array(image, torch.uint8, 3) and image.shape[0] == 3 and min(image.shape) > 0
        and isinstance(value["image_id"], int)
        and isinstance(size, list) and len(size) == 2 and all(map(is_count, size))
        and isinstance(targets, dict) and set(targets) == {each.name for each in fields(Targets)}
        and are_targets(targets, image.shape[1:])
    )  # fmt: skip


def are_targets(value: dict[str, Any], size: torch.Size) -> bool:
    """Whether they are the objects of an image of `size` (height, width)."""
    boxes, labels, masks, semantic = (value[name] for name in ("boxes", "labels", "masks", "semantic"))
    return (
        is_array(boxes, torch.float32, 2) and is_array(labels, torch.int64, 1) and is_array(masks, torch.uint8, 3)
        and boxes.shape == (len(labels), 4) and masks.shape == (len(labels), *size)
        and (semantic is None or (is_array(semantic, torch.uint8, 2) and semantic.shape == size))
        and is_count(value["seed"])
    )  # fmt: skip


def is_array(value: Any, dtype: torch.dtype, dimensions: int) -> bool:
    return isinstance(value, Tensor) and is_plain(value) and value.dtype is dtype and value.dim() == dimensions


def replay(content: dict[str, Any], overrides: list[str], source: str) -> Replay:
    """Forward and backward of all passes of the step, on one device and without an update.

    Raises UserError, naming `source`, where the model that the overrides make is not that of the step.
    """
    config = recorded_config(content["config"], overrides)
    config.backbone.weights = None
    num_classes = len(content["categories"]["names"])
    mismatch = compare(build_meta_detector(config, num_classes).state_dict(), content["model"])
    if mismatch:
        raise UserError(f"{source} does not fit the model: {mismatch.description()}; leave out what changes the model.")
    check_classes(content["passes"], config, num_classes, source)
    device = choose_device(config.device)
    model = build_detector(config, num_classes)
    load_weights(model, content["model"], source)
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


def check_classes(passes: list[list[dict[str, Any]]], config: Config, num_classes: int, source: str) -> None:
    """Raise UserError for objects and pixels of classes that the model does not know, or pixels without any."""
    for targets in (sample["targets"] for samples in passes for sample in samples):
        labels, pixels = targets["labels"], targets["semantic"]
        known = bool(((labels >= 0) & (labels < num_classes)).all())
        if known and config.model.semantic:
            limit = config.data.semantic_classes
            known = pixels is not None and bool(((pixels < limit) | (pixels == IGNORE_LABEL)).all())
        if not known:
            raise UserError(f"{source} holds objects or pixels of classes that its model does not know: it is damaged.")


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


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
