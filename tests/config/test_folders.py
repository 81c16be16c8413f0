"""The folders of configuration files: the shipped ones, `--config-dir` and HTC_CONFIG_DIR."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import htc
from htc.config import folders
from htc.config.folders import CONFIG_FOLDER, SWEEPS_FOLDER, config_folders, config_groups, group_options
from htc.errors import UserError


@pytest.fixture(autouse=True)
def no_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the folder of the user who runs the tests, and the command line of the tests."""
    monkeypatch.delenv("HTC_CONFIG_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["htc.run"])


def write(folder: Path, *names: str) -> Path:
    """Write empty configuration files below a folder, and return the folder."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("existing", "expected"),
    [(["checkout/conf"], "checkout/conf"), (["checkout/htc/conf"], "checkout/htc/conf"),
     (["checkout/conf", "checkout/htc/conf"], "checkout/htc/conf")],
    ids=["checkout", "wheel", "wheel installed where a folder of that name exists"],
)  # fmt: skip
def test_shipped_folder_is_next_to_the_package_in_a_checkout_and_inside_it_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: list[str], expected: str
) -> None:
    for name in ["checkout/htc", *existing]:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(htc, "__file__", str(tmp_path / "checkout" / "htc" / "__init__.py"))
    assert folders.shipped_folder("conf") == tmp_path / expected


def test_shipped_folders_hold_groups_and_sweeps() -> None:
    assert (CONFIG_FOLDER / "model" / "htc.yaml").is_file()
    assert (SWEEPS_FOLDER / "components.yaml").is_file()


@pytest.mark.parametrize("value", [None, ""])
def test_there_is_no_user_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("HTC_CONFIG_DIR", value)
    assert folders.user_folder() is None


@pytest.mark.parametrize("value", ["{root}/mine", "mine", "./mine", "~/mine"])
def test_user_folder_is_absolute_relative_or_below_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTC_CONFIG_DIR", value.format(root=tmp_path))
    folder = folders.user_folder()
    assert folder is not None and folder.is_absolute()
    assert folder == tmp_path / "mine"


@pytest.mark.parametrize("value", ["nowhere", "file.yaml"])
def test_user_folder_that_is_missing_or_a_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "file.yaml").touch()
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path / value))
    with pytest.raises(UserError, match=f"^HTC_CONFIG_DIR={tmp_path / value} is not a folder: set it to a folder"):
        folders.user_folder()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["--config-dir", "a"], ["a"]),
        (["--config-dir=a"], ["a"]),
        (["-cd", "a"], ["a"]),
        (["-cd=a"], ["a"]),
        (["model=htc", "--config-dir", "a", "seed=1"], ["a"]),
        (["--config-dir"], []),
        (["--config-name", "a"], []),
        (["config-dir=a"], []),
    ],
)
def test_config_dir_of_the_command_line_follows_the_shipped_folder(arguments: list[str], expected: list[str]) -> None:
    assert config_folders(arguments) == [CONFIG_FOLDER, *map(Path, expected)]


def test_command_line_is_that_of_the_process_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["htc.run", "--config-dir=a"])
    assert config_folders() == [CONFIG_FOLDER, Path("a")]
    assert config_folders([]) == [CONFIG_FOLDER]


def test_user_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path))
    assert config_folders(["--config-dir", "a"]) == [CONFIG_FOLDER, Path("a"), tmp_path]


def test_groups_of_all_folders_are_listed_without_hidden_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = config_groups()
    assert {"model", "data", "hydra", "hydra/launcher", "sweeps"} <= set(shipped) and shipped == sorted(shipped)
    mine = write(tmp_path / "mine", "model/mine.yaml", "optics/lens.yaml", ".git/objects/a.yaml", "hydra/.old/a.yaml")
    monkeypatch.setenv("HTC_CONFIG_DIR", str(mine))
    monkeypatch.setattr(sys, "argv", ["htc.run", "--config-dir", str(write(tmp_path / "other", "weather/rain.yaml"))])
    assert set(config_groups()) - set(shipped) == {"optics", "weather"}


def test_options_of_a_group_are_those_of_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = group_options("model")
    assert shipped == ["cascade_mask_rcnn", "htc", "mask_rcnn"]
    assert group_options("unknown") == []
    mine = write(tmp_path / "mine", "model/mine.yaml", "model/htc.yaml", "model/notes.txt", "data/mine.yaml")
    monkeypatch.setenv("HTC_CONFIG_DIR", str(mine))
    assert group_options("model") == sorted([*shipped, "mine"])


@pytest.mark.parametrize("form", ["HTC_CONFIG_DIR", "--config-dir"])
def test_sweeps_of_the_user_are_options_next_to_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    shipped = group_options("sweeps")
    assert {"comparison", "components"} <= set(shipped)
    mine = write(tmp_path / "mine", "sweeps/widths.yaml")
    if form == "HTC_CONFIG_DIR":
        monkeypatch.setenv("HTC_CONFIG_DIR", str(mine))
    else:
        monkeypatch.setattr(sys, "argv", ["htc.run", form, str(mine)])
    assert group_options("sweeps") == sorted([*shipped, "widths"])


def test_runs_and_data_in_the_users_folder_are_no_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = config_groups()
    for name in ("runs/.sweeps", "runs/.locks", "runs/htc-1a2b3c4d", "old/run", "coco/annotations", "optics"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/htc-1a2b3c4d/config.yaml", "old/run/run.json", "old/run/config.yaml", "optics/lens.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path))
    assert set(config_groups()) - set(shipped) == {"optics", "old"}
