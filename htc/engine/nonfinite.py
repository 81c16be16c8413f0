"""When a loss or a gradient is not finite: the sentence that says so, and the file that `htc.replay` replays."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from htc.config.signature import to_plain
from htc.engine.meters import mean_of
from htc.runs.files import atomic_path
from htc.structures import Sample, Targets

if TYPE_CHECKING:
    from htc.engine.trainer import Trainer

ADVICE = "lower schedule.learning_rate, lengthen schedule.warmup_iterations or set schedule.clip_norm"


@dataclasses.dataclass
class StepFigures:
    """The figures of one step on one process, fetched from the device at once."""

    losses: dict[str, float]
    """Means over the step's micro_batches."""
    gradient_norm: float
    """Before clipping; of the gradients averaged over all processes."""

    @property
    def finite_losses(self) -> bool:
        return all(math.isfinite(value) for value in self.losses.values())

    @property
    def finite(self) -> bool:
        return self.finite_losses and math.isfinite(self.gradient_norm)


@dataclasses.dataclass
class Source:
    """A process's part in a step that is not finite."""

    figures: StepFigures
    image_ids: list[int]
    replay: Path | None

    @classmethod
    def of(cls, trainer: Trainer, figures: StepFigures, micro_batches: list[list[Sample]]) -> Source:
        """This process's part in the step in progress, with its replay file written."""
        images = [sample.image_id for samples in micro_batches for sample in samples]
        return cls(figures, images, write_replay(trainer, micro_batches))


def sentence(step: int, sources: list[Source]) -> str:
    """What went wrong in a step, in one sentence, with the images and replay files of all processes it may come from.

    The losses are their means.
    """
    what = "gradient" if all(source.figures.finite_losses for source in sources) else "loss"
    terms = mean_of([source.figures.losses for source in sources])
    losses = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    images = ", ".join(str(image) for source in sources for image in source.image_ids)
    commands = [f"python -m htc.replay {source.replay}" for source in sources if source.replay]
    again = f"; {' and '.join(commands)} {'does' if len(commands) == 1 else 'do'} this step again" if commands else ""
    return f"the {what} is not finite at step {step} (images {images}): {losses}; {ADVICE}{again}."


def write_replay(trainer: Trainer, micro_batches: list[list[Sample]]) -> Path | None:
    """Write all that the step in progress was made of; None where the disk does not take it.

    The weights have not been updated yet, and no random state has a part in a step beyond the samples' own seeds.
    """
    path = trainer.folder.path / "replay" / f"step_{trainer.step + 1:08d}_process_{trainer.processes.rank}.pt"
    content = {
        "replay": 1,
        "config": to_plain(trainer.config),
        "categories": {"ids": trainer.dataset.category_ids, "names": trainer.dataset.category_names},
        "model": trainer.raw_model.state_dict(),
        "step": trainer.step + 1,
        "loss_scale": trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0,
        "passes": [[plain_sample(sample) for sample in samples] for samples in micro_batches],
    }
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError):
        return None
    return path


def plain_sample(sample: Sample) -> dict[str, Any]:
    """A sample as nested dicts of tensors and plain values."""
    targets = sample.targets
    return {
        **{field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)},
        "original_size": list(sample.original_size),
        "targets": None if targets is None else {f.name: getattr(targets, f.name) for f in dataclasses.fields(targets)},
    }


def sample_of(plain: dict[str, Any]) -> Sample:
    """The sample that `plain_sample` took apart."""
    targets = plain["targets"]
    return Sample(
        plain["image"],
        plain["image_id"],
        (plain["original_size"][0], plain["original_size"][1]),
        None if targets is None else Targets(**targets),
    )
