"""The package from Python and notebooks: compose a configuration, run it, read its run, load its model.

```python
from htc import compose, load, load_model, run

config = compose("model.mask_flow=false", "schedule=short", "seed=1")
trained = run(config)
trained.results()["segm"]["AP"]
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.config.checks import check_training
from htc.config.compose import composed_config, recorded_config
from htc.config.schema import Config
from htc.errors import UserError
from htc.launch.status.selection import select
from htc.runs.evaluations import evaluation_names
from htc.runs.folder import RunFolder, find_folder
from htc.runs.record import RunRecord

if TYPE_CHECKING:
    import torch

    from htc.trained_model import TrainedModel


class RunStopped(Exception):  # noqa: N818 - not an error
    """A run was stopped by Ctrl-C or SIGTERM; the same call continues it."""


class Run:
    """A run on disk, which need not have ended."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = RunFolder(folder)

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.status or 'not started'}>"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._folder.path

    @property
    def record(self) -> RunRecord:
        """The content of run.json."""
        return self._folder.read()

    @property
    def status(self) -> str | None:
        """One of `queued`, `running`, `preempted`, `failed` and `done`; None for a run that has not started."""
        return self.record.status

    @property
    def config(self) -> Config:
        """The configuration that the run recorded. Raises UserError where it cannot be read."""
        if not (recorded := self._folder.read_config()):
            raise UserError(f"{self._folder.config_file} cannot be read: the run has not started, or was damaged.")
        return recorded_config(recorded, [])

    @property
    def evaluations(self) -> list[str]:
        """Names of the complete evaluations."""
        return evaluation_names(self.folder)

    def results(self, evaluation: str = "default") -> dict[str, Any]:
        """Return the results of an evaluation, as results.json holds them: `bbox` and `segm` have COCO's metrics, 0..1.

        Raises UserError where the run has no such evaluation.
        """
        if evaluation not in self.evaluations:
            raise UserError(
                f"{self.folder} has no evaluation {evaluation!r}, only {', '.join(self.evaluations) or 'none'}: "
                f"python -m htc.evaluate run={self.folder} eval={evaluation} makes it."
            )
        return self._folder.read_results(evaluation)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl: losses and learning rate per logging step, and evaluations."""
        return self._folder.read_metrics()

    def model(self, device: torch.device | str = "cpu") -> TrainedModel:
        """Return the model of the newest checkpoint; see `load_model`."""
        return load_model(run=self.folder, device=device)


def compose(*overrides: str) -> Config:
    """Return the configuration that `python -m htc.run` composes from these arguments, such as `"model=mask_rcnn"`.

    Raises UserError for values that are refused, and Hydra's errors for what cannot be composed.
    """
    config = composed_config(list(overrides))
    check_training(config)
    return config


def run(config: Config | Sequence[str]) -> Run:
    """Train, evaluate and record a run in this process, and return it. A finished run is returned as it is.

    config: a configuration, from `compose`, or the overrides of one.

    Raises:
        UserError: for what the user can fix; the run has the status `failed` then.
        RunStopped: where Ctrl-C or SIGTERM stopped the run, which then has saved its state.
    """
    from htc.experiment import run_experiment

    chosen = config if isinstance(config, Config) else compose(*config)
    try:
        run_experiment(chosen, ["htc.run"])
    except SystemExit:
        raise RunStopped(f"{find_folder(chosen)} was stopped; the same call continues it") from None
    return Run(find_folder(chosen))


def load(run: str | Path, runs: str | Path = "runs") -> Run:
    """Return a run.

    Args:
        run: the run's folder; or its name, the beginning of the name, or its signature.
        runs: the folder of all runs.

    Raises:
        UserError: where there is no such run, or more than one.
    """
    if (Path(run) / "run.json").is_file():
        return Run(run)
    found = {row.run for row in select(Path(runs), [str(run)])}
    if len(found) > 1:
        raise UserError(f"{run} names {len(found)} runs below {runs}, such as {min(found)}: write more of the name.")
    return Run(Path(runs) / found.pop())


def load_model(
    *, run: str | Path | None = None, checkpoint: str | Path | None = None, overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> TrainedModel:  # fmt: skip
    """Return a trained model in evaluation mode; its method `detect` finds the objects of an image.

    Args:
        run: folder of a run, whose newest checkpoint is used.
        checkpoint: a checkpoint file instead: ours, MMDetection's or torchvision's.
        overrides: KEY=VALUE for its configuration, such as `"eval=paper"`.
        device: where the model is placed.

    Raises:
        UserError: unless exactly one of `run` and `checkpoint` is given and can be read.
    """
    from htc.trained_model import load_trained_model

    given = {"run": run, "checkpoint": checkpoint}
    trained = load_trained_model({key: str(value) for key, value in given.items() if value is not None}, [*overrides])
    trained.model.to(device).eval()
    return trained
