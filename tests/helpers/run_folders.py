"""Run folders on disk in the format that runs write, with configurations of the schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from htc.config.evaluation import evaluation_settings
from htc.config.finalize import derive
from htc.config.schema import BackboneConfig, Config, DataConfig, ModelConfig, ScheduleConfig, SplitConfig
from htc.config.signature import identity, signature, to_plain
from htc.runs.evaluations import evaluation_folder
from htc.runs.pool import SelectedRun, change_rows

ON = {"interleaved": True, "mask_flow": True, "semantic": True}
"""Settings below `model` with all ideas of HTC."""
CONDITIONS = {"device": "Example GPU_1", "threads": 2, "batch_size": 1, "precision": "fp32", "input_size": [192, 192]}
WriteRun = Callable[..., Path]


def make_config(model: dict[str, Any], data: dict[str, Any], backbone: str, seed: int, sweep: str | None) -> Config:
    """Return a complete configuration of one of the three methods.

    Args:
        model: fields of ModelConfig that differ from the defaults.
        data: fields of DataConfig that differ from those of the built-in data.
        backbone: name of the backbone.
        seed: seed of the run.
        sweep: name of the sweep.
    """
    splits = {
        split: SplitConfig(images=f"{split}2017", annotations=f"annotations/instances_{split}2017.json")
        for split in ("train", "val")
    }
    config = Config(
        model=ModelConfig(**{"name": "htc", "num_stages": 1 if model.get("name") == "mask_rcnn" else 3, **model}),
        backbone=BackboneConfig(name=backbone),
        data=DataConfig(**{"name": "shapes", "root": "data", **splits, **data}),
        schedule=ScheduleConfig(iterations=300),
        seed=seed,
        sweep=sweep,
    )
    derive(config)
    return config


def run_writer(runs: Path) -> WriteRun:
    """Return a function that writes one run folder below `runs`, and returns the folder.

    Its keywords `mask_ap` and `box_ap` are in 0..1, `change` modifies the configuration, `suffix` is appended to the
    name of the folder, and all unknown keywords are fields of ModelConfig.
    """

    def write(
        *,
        mask_ap: float | None = 0.3,
        box_ap: float = 0.35,
        seed: int = 0,
        sweep: str | None = "components",
        status: str = "done",
        end: str = "2025-01-01T10:00:00+00:00",
        fps: float = 2.5,
        conditions: dict[str, Any] | None = None,
        images: int = 200,
        backbone: str = "resnet18",
        data: dict[str, Any] | None = None,
        suffix: str = "",
        change: Callable[[Config], None] | None = None,
        git: dict[str, Any] | None = None,
        content: dict[str, Any] | None = None,
        evaluation: str = "default",
        **model: Any,
    ) -> Path:
        config = make_config(model, data or {}, backbone, seed, sweep)
        if change:
            change(config)
        folder = runs / f"{config.name}-{signature(config)}{suffix}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
        record = {
            "status": status, "signature": signature(config), "start": end, "end": end, "git": git, "data": content,
            "identity": identity(to_plain(config)),
        }  # fmt: skip
        if sweep:
            change_rows(runs, sweep, lambda rows: [*rows, SelectedRun(folder.name)])
        (folder / "run.json").write_text(json.dumps(record))
        if status == "done":
            masks = {"AP": mask_ap, "AP50": 0.5, "AP75": 0.25, "APs": 0.1, "APm": 0.3, "APl": None}
            results = {
                "bbox": {"AP": box_ap},
                "segm": masks,
                "per_category": {"bbox": {}, "segm": {}},
                "speed": {"fps": fps, "images": 190, "conditions": conditions or CONDITIONS},
                "images_evaluated": images,
            }
            evaluation_folder(folder, evaluation).write({**results, "settings": evaluation_settings(to_plain(config))})
        return folder

    return write
