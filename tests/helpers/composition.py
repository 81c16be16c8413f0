"""Configurations composed by Hydra in this process."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from htc.config.folders import CONFIG_FOLDER
from htc.config.schema import register


def compose_fully(overrides: list[str]) -> DictConfig:
    """Return the configuration of these overrides as Hydra alone composes it, before values are derived."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", overrides)
