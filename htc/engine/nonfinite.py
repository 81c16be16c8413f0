"""Steps whose loss or gradient is not finite: their figures, and the message that stops the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from htc.engine.meters import mean_of

ADVICE = "lower schedule.learning_rate, lengthen schedule.warmup_iterations or set schedule.clip_norm"


@dataclass
class StepFigures:
    """The figures of one step on one process, fetched from the device at once."""

    losses: dict[str, float]
    """Losses by name, means over the step's micro-batches."""
    gradient_norm: float
    """L2 norm before clipping, of the gradients averaged over all processes."""

    @property
    def finite_losses(self) -> bool:
        """Whether all losses are finite."""
        return all(math.isfinite(value) for value in self.losses.values())

    @property
    def finite(self) -> bool:
        """Whether all losses and the gradient norm are finite."""
        return self.finite_losses and math.isfinite(self.gradient_norm)


@dataclass
class NonFiniteReport:
    """What one process contributed to a step that is not finite."""

    figures: StepFigures
    image_ids: list[int]
    replay: Path | None
    """The file that replays the step; None where it could not be written."""


def nonfinite_message(step: int, reports: Sequence[NonFiniteReport]) -> str:
    """Return one sentence with the losses (means over the processes), the images and the replay files of a step.

    reports: those of the processes that may have caused it.
    """
    kind = "gradient" if all(report.figures.finite_losses for report in reports) else "loss"
    terms = mean_of([report.figures.losses for report in reports])
    losses = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    images = ", ".join(str(image) for report in reports for image in report.image_ids)
    commands = [f"python -m htc.replay {report.replay}" for report in reports if report.replay]
    verb = "repeats" if len(commands) == 1 else "repeat"
    again = f"; {' and '.join(commands)} {verb} this step" if commands else ""
    return f"the {kind} is not finite at step {step} (images {images}): {losses}; {ADVICE}{again}."
