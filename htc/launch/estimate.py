"""Estimate the cost of a run from the measured throughput of similar runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from htc.config.signature import value_at
from htc.runs.folder import RunFolder
from htc.runs.pool import run_names

# Settings on which the time of a training step depends; the others hardly change it.
COST_KEYS = (
    "backbone.name", "backbone.width", "data.name", "data.short_side", "data.long_side", "model.name",
    "model.num_stages", "model.channels", "model.interleaved", "model.mask_flow", "model.semantic", "precision",
)  # fmt: skip
COARSE_COST_KEYS = COST_KEYS[:5]
"""Settings by which runs are compared if none has the same COST_KEYS."""


class Throughput:
    """Device seconds per training image, measured in the finished runs below a folder."""

    def __init__(self, runs: Path) -> None:
        self._exact: dict[str, list[float]] = defaultdict(list)
        """Seconds per image by all of COST_KEYS."""
        self._coarse: dict[str, list[float]] = defaultdict(list)
        """Seconds per image by COARSE_COST_KEYS."""
        self._images: dict[str, list[float]] = defaultdict(list)
        """Training images per epoch, by data set."""
        self._steps: dict[str, int] = {}
        """Steps of each run, which a run that continues it does not repeat."""
        for name in sorted(run_names(runs)):
            self._read(RunFolder(runs / name))

    def hours(self, config: Mapping[str, Any]) -> float | None:
        """Return the device hours of a run, summed over its devices; None if no similar run was measured."""
        seconds = self._exact.get(_cost_key(config)) or self._coarse.get(_coarse_key(config))
        images = self._images_of(config)
        return None if not seconds or images is None else median(seconds) * images / 3600

    def _images_of(self, config: Mapping[str, Any]) -> float | None:
        """Return the number of training images that a run processes, counting each epoch; None if it is not known."""
        schedule = config["schedule"]
        done = self._steps.get(config.get("continue_from") or "", 0) * schedule["batch_size"]
        if schedule["iterations"] is not None:
            return float(schedule["iterations"] * schedule["batch_size"] - done)
        data = config["data"]
        number = data["train"]["limit"] or (data.get("shapes") or {}).get("train_images")
        if number is None:
            seen = self._images.get(_data_key(config))
            number = median(seen) if seen else None
        return None if number is None else float(schedule["epochs"] * number - done)

    def _read(self, folder: RunFolder) -> None:
        """Add the measurements of one run; a run that is not trained or cannot be read is skipped."""
        if (training := folder.read().training) is None:
            return
        self._steps[folder.path.name] = training.iterations or 0
        config = folder.read_config()
        try:
            images = (training.iterations or 0) * config["schedule"]["batch_size"]
            seconds = (training.training_seconds or 0) * (training.processes or 1) / images
            self._exact[_cost_key(config)].append(seconds)
            self._coarse[_coarse_key(config)].append(seconds)
            if config["schedule"]["epochs"] is not None:
                self._images[_data_key(config)].append(images / config["schedule"]["epochs"])
        except (KeyError, TypeError, ZeroDivisionError):
            return


def _values(config: Mapping[str, Any], keys: Iterable[str]) -> str:
    return json.dumps([value_at(config, key) for key in keys])


def _cost_key(config: Mapping[str, Any]) -> str:
    return _values(config, COST_KEYS)


def _coarse_key(config: Mapping[str, Any]) -> str:
    return _values(config, COARSE_COST_KEYS)


def _data_key(config: Mapping[str, Any]) -> str:
    return _values(config, ("data.name", "data.root", "data.train.annotations", "data.train.limit"))
