"""Hydra plugins that find the sweeps and the user's own configuration files.

The sweeps are in `sweeps/`, which is not a part of `conf/` but next to it; the user's files are in HTC_CONFIG_DIR.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SweepsSource(FileConfigSource):
    """A folder of sweep files as Hydra's group `sweeps`."""

    group = "sweeps"

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        return super().load_config(config_path.removeprefix(f"{self.group}/"))

    def available(self) -> bool:
        return super().is_group("")

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", self.group)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.partition("/")
        return group == self.group and bool(name) and super().is_config(name)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [self.group]
        return (
            [] if results_filter is ObjectType.GROUP else sorted(path.stem for path in Path(self.path).glob("*.yaml"))
        )


class HtcSearchPath(SearchPathPlugin):
    """Adds the sweeps and the user's folder to the search path of this project's commands."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from htc.config.folders import (
            CONFIG_FOLDER,
            SWEEPS_FOLDER,
            config_folders,
            refuse_hidden_files,
            user_folder,
        )

        # Hydra loads the plugins into every application of the environment: the paths of others are not changed.
        paths = [element.path.removeprefix("file://") for element in search_path.get_path()]
        if str(CONFIG_FOLDER) not in paths:
            return
        search_path.append("htc-sweeps", f"{SweepsSource.scheme()}://{SWEEPS_FOLDER}")
        for own in config_folders()[1:]:
            refuse_hidden_files(own)
        if (folder := user_folder()) is not None:
            search_path.append("htc-user", f"file://{folder}")
