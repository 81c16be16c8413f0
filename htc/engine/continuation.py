"""How the training of a continued run compares with one long run."""

from __future__ import annotations

from htc.config.schema import ScheduleConfig
from htc.engine.optim import learning_rate

OPTIMISATION = ("momentum", "weight_decay", "clip_norm", "ema")
"""Settings of the schedule that hold for every step alike."""


def differences_to_one_run(
    before: ScheduleConfig,
    after: ScheduleConfig,
    step: int,
    steps_per_epoch: int,
    processes: tuple[int | None, int],
) -> list[str]:
    """Return, in words, why training `step` steps with one schedule and the rest with another is not one long run.

    The list is empty where the two together are one run with the schedule `after`, to the last bit.

    Args:
        before: schedule of the first steps.
        after: schedule of the steps that follow.
        step: number of the first steps.
        steps_per_epoch: steps of an epoch.
        processes: number of processes before (None: not known), and after.
    """
    found = []
    rates = [[learning_rate(i, schedule, steps_per_epoch) for i in range(step)] for schedule in (before, after)]
    unequal = [i for i, (old, new) in enumerate(zip(*rates, strict=True)) if old != new]
    if unequal:
        first, last = unequal[0], unequal[-1]
        found.append(
            f"steps {first + 1} to {last + 1} had other learning rates (step {last + 1}: {rates[0][last]:.3g}, in one "
            f"run {rates[1][last]:.3g})"
        )
    for key in OPTIMISATION:
        old, new = getattr(before, key), getattr(after, key)
        if old != new:
            found.append(f"schedule.{key} was {_word(old)}, and is {_word(new)}")
    if processes[0] is not None and processes[0] != processes[1]:
        found.append(f"the first steps ran on {processes[0]} processes, and these on {processes[1]}")
    return found


def _word(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"
