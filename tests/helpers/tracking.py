"""A configuration for tests of tracking."""

from __future__ import annotations

from typing import Any

from htc.config.finalize import derive
from htc.config.schema import Config, WandbMode


def example_config(mode: WandbMode | None, **changes: Any) -> Config:
    config = Config(sweep="components", name="a run", **changes)
    config.model.name, config.backbone.name, config.data.name, config.data.root = "htc", "resnet18", "shapes", "here"
    config.wandb.mode = mode
    derive(config)
    return config
