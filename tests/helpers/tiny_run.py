"""Overrides for runs that take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

SMALL = [
    "data.workers=0", "data.short_side=64", "data.long_side=80", "backbone.width=8", "model.channels=16",
    "model.fc_channels=32",
]  # fmt: skip
"""Small images and a narrow network, on whatever data."""


def tiny(
    runs: Path,
    data: Path | None = None,
    iterations: int = 6,
    save_every: int | None = None,
    images: tuple[int, int] = (16, 6),
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return the overrides of a run of seconds on the built-in data.

    Args:
        runs: The folder of runs.
        data: The folder of the data, which are generated where they are missing; None: `data` next to `runs`.
        iterations: Training steps.
        save_every: Steps between two checkpoints, and between two lines of the log; None: one checkpoint at the end,
            a line every second step.
        images: Number of images to train and to evaluate on, of 64 pixels.
        overrides: Overrides that come after these, and so win over them.
    """
    return [
        f"runs={runs}", f"data.root={data or runs.parent / 'data'}", "data.shapes.image_size=64",
        f"data.shapes.train_images={images[0]}", f"data.shapes.val_images={images[1]}", *SMALL,
        f"schedule.iterations={iterations}", f"log_every={save_every or 2}",
        *([f"save.every={save_every}"] if save_every else []), *overrides,
    ]  # fmt: skip


tiny_launched = partial(
    tiny,
    iterations=32,
    save_every=4,
    images=(16, 4),
    overrides=["schedule.batch_size=2", "device=cpu", "wandb.mode=disabled"],
)
"""The same for tests of launchers: on the CPU, with a checkpoint every fourth step."""
SLURM = ["hydra/launcher=slurm", "launcher.gpus_per_node=1", "launcher.cpus_per_task=4", "launcher.time=10"]
"""Launch on the cluster of tests/cluster, with a node for each run: what happens to a node concerns one run."""
