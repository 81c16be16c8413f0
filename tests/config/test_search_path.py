"""Hydra's search path: the project's sweeps, and the user's files from HTC_CONFIG_DIR and `--config-dir`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from htc.config.folders import CONFIG_FOLDER, SWEEPS_FOLDER
from htc.config.schema import register
from htc.errors import UserError
from htc.run import start
from hydra_plugins.htc_search_path import SweepsSource

SWEEP = """
# @package _global_
sweep: widths
hydra:
  sweeper:
    rows:
      narrow: model.channels=16
      wide: model.channels=32
"""
OWN_CLUSTER = CONFIG_FOLDER / "hydra" / "cluster" / "local.yaml"
without_own_cluster = pytest.mark.skipif(OWN_CLUSTER.exists(), reason=f"{OWN_CLUSTER} has settings of this cluster")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user, which HTC_CONFIG_DIR names."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("HTC_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def unchanged_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a command changes in its process: Hydra replaces the handlers of the root logger."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = handlers, level
    GlobalHydra.instance().clear()


def write(path: Path, text: str) -> None:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def composed(*overrides: str) -> DictConfig:
    """Return the composed configuration of a run, with Hydra's own section."""
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def htc_run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run `python -m htc.run ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["htc.run", *arguments])
    start()


def test_sweep_of_the_project_is_found() -> None:
    config = composed("+sweeps=components")
    assert config.sweep == "components" and len(config.hydra.sweeper.rows) > 1


def test_sweep_of_the_user_is_found_next_to_those_of_the_project(user: Path) -> None:
    write(user / "sweeps" / "widths.yaml", SWEEP)
    config = composed("+sweeps=widths")
    assert config.sweep == "widths"
    assert config.hydra.sweeper.rows == {"narrow": "model.channels=16", "wide": "model.channels=32"}
    assert composed("+sweeps=components").sweep == "components"


def test_unknown_sweep_is_refused(user: Path) -> None:
    with pytest.raises(MissingConfigException, match="Could not find 'sweeps/widths'"):
        composed("+sweeps=widths")


@pytest.mark.usefixtures("unchanged_process")
@pytest.mark.parametrize("form", ["HTC_CONFIG_DIR", "--config-dir FOLDER", "--config-dir=FOLDER"])
def test_command_plans_the_rows_of_a_sweep_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    folder = tmp_path / "user"
    write(folder / "sweeps" / "widths.yaml", SWEEP)
    arguments: list[str] = []
    if form == "HTC_CONFIG_DIR":
        monkeypatch.setenv("HTC_CONFIG_DIR", str(folder))
    else:
        monkeypatch.delenv("HTC_CONFIG_DIR", raising=False)
        arguments = form.replace("FOLDER", str(folder)).split(" ")
    htc_run(monkeypatch, *arguments, "+sweep=widths", "seed=0,1", f"runs={tmp_path / 'runs'}", "--dry-run")
    printed = capsys.readouterr().out
    assert "4 runs: 4 to start" in printed
    assert "model.channels=16" in printed and "model.channels=32" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("unchanged_process")
def test_command_names_the_sweeps_of_the_user_where_it_refuses_another(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(user / "sweeps" / "widths.yaml", SWEEP)
    with pytest.raises(SystemExit) as end:
        htc_run(monkeypatch, "+sweep=width", "--dry-run")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: +sweep=width is not one of ") and error.endswith("; did you mean widths.\n")
    assert "components" in error


def test_model_of_the_user_is_an_option_of_its_group(user: Path) -> None:
    write(user / "model" / "mine.yaml", "defaults: [htc, _self_]\nname: mine\nnum_stages: 2\n")
    model = composed("model=mine").model
    assert (model.name, model.num_stages, model.mask_flow) == ("mine", 2, True)
    assert composed("model=mask_rcnn").model.name == "mask_rcnn"


@without_own_cluster
def test_launcher_has_the_settings_of_the_users_cluster(user: Path) -> None:
    shipped = composed("hydra/launcher=slurm").hydra.launcher
    assert shipped.partition is None and shipped.mem is None and shipped.max_running == 16
    write(user / "hydra" / "cluster" / "local.yaml", "partition: gpu\nmax_running: 4\nsetup: [module load cuda]\n")
    launcher = composed("hydra/launcher=slurm", "hydra.launcher.max_running=2").hydra.launcher
    assert (launcher.partition, launcher.setup, launcher.mem) == ("gpu", ["module load cuda"], None)
    assert launcher.max_running == 2, "the command line takes precedence over the file"
    assert launcher._target_ == shipped._target_
    assert "partition" not in composed("hydra/launcher=local").hydra.launcher


@without_own_cluster
@pytest.mark.usefixtures("unchanged_process")
@pytest.mark.parametrize("place", ["file", "command line"])
def test_unknown_option_of_the_launcher_is_refused(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    arguments = ["hydra/launcher=slurm", f"runs={tmp_path / 'runs'}", "--dry-run"]
    if place == "file":
        write(user / "hydra" / "cluster" / "local.yaml", "partitoin: gpu\n")
    else:
        arguments.append("launcher.partitoin=gpu")
    with pytest.raises(SystemExit) as end:
        htc_run(monkeypatch, *arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "partitoin" in error
    if place == "file":
        assert "launcher.partitoin is not an option of the launcher slurm; did you mean partition" in error


def test_folder_of_the_user_that_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^HTC_CONFIG_DIR=.*nowhere is not a folder"):
        composed()


def providers() -> list[str]:
    """Return the providers of the search path of the initialised Hydra application."""
    return [element.provider for element in GlobalHydra.instance().config_loader().get_search_path().get_path()]


def test_search_path_of_this_project_has_the_sweeps_and_the_users_folder_after_the_shipped_files(user: Path) -> None:
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert [name for name in providers() if name not in ("hydra", "schema")] == ["main", "htc-sweeps", "htc-user"]


def test_there_is_no_users_folder_in_the_search_path_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTC_CONFIG_DIR", raising=False)
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert "htc-user" not in providers() and "htc-sweeps" in providers()


@pytest.mark.parametrize("variable", ["a folder", "a missing folder"])
def test_search_path_of_other_applications_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path if variable == "a folder" else tmp_path / "nowhere"))
    write(tmp_path / "conf" / "config.yaml", "a: 1\n")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        assert not {"htc-sweeps", "htc-user"} & set(providers())
        assert compose("config") == {"a": 1}


def test_source_of_sweeps_is_a_folder_without_groups_in_it(tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml", "notes.txt"):
        (tmp_path / name).write_text("a: 1\n")
    source = SweepsSource("htc-sweeps", f"sweeps://{tmp_path}")
    assert source.available()
    assert {path: source.is_group(path) for path in ("", "sweeps", "model", "sweeps/one")} == {
        "": True, "sweeps": True, "model": False, "sweeps/one": False,
    }  # fmt: skip
    paths = ("sweeps/one", "sweeps/three", "sweeps", "sweeps/", "one", "model/one")
    assert [path for path in paths if source.is_config(path)] == ["sweeps/one"]
    assert source.list("", ObjectType.GROUP) == source.list("", None) == ["sweeps"]
    assert source.list("", ObjectType.CONFIG) == source.list("sweeps", ObjectType.GROUP) == []
    assert source.list("sweeps", ObjectType.CONFIG) == source.list("sweeps", None) == ["one", "two"]
    assert source.load_config("sweeps/one").config == {"a": 1}


def test_source_of_sweeps_without_its_folder_is_not_available(tmp_path: Path) -> None:
    assert not SweepsSource("htc-sweeps", f"sweeps://{tmp_path / 'nowhere'}").available()
    assert SweepsSource("htc-sweeps", f"sweeps://{SWEEPS_FOLDER}").available()


@pytest.mark.parametrize("name", ["model/htc.yaml", "sweeps/beta.yaml", "config.yaml"])
def test_user_file_with_the_name_of_a_shipped_one_is_refused(user: Path, name: str) -> None:
    write(user / name, "name: mine")
    with pytest.raises(UserError, match=rf"user/{name} has the name of .*{name}, which would be used in its place"):
        composed()
