"""The copy of the code that jobs run holds everything that they need, and no other files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from htc.launch.code_snapshot import code_files, code_remarks, other_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["with git", "without git"])
def code(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A working copy with new files of all kinds, and with Hydra plugins of other distributions."""
    for name in (
        "htc/__init__.py", "htc/new.py", "htc/key.pem", "htc/.cache/a.py", "htc/__pycache__/new.cpython-311.pyc",
        "hydra_plugins/htc_launch.py", "hydra_plugins/other_launcher.py", "hydra_plugins/other/htc_launch.py",
        "conf/data/mine.yaml", "conf/.env", "conf/.env.yaml", "conf/account.json", "README.md", "runs/a/config.yaml",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    if request.param == "with git":
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_only_code_and_configuration_of_the_project_are_copied(code: Path) -> None:
    plugin = "hydra_plugins/htc_launch.py"
    assert code_files(code) == ["conf/data/mine.yaml", "htc/__init__.py", "htc/new.py", plugin]


def test_nothing_of_the_project_is_left_out() -> None:
    parts = ("htc", "conf", "sweeps", "hydra_plugins")
    present = {
        str(path.relative_to(ROOT))
        for part in parts
        for path in (ROOT / part).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "py.typed"
    }
    assert present == set(code_files(ROOT))


def test_packages_and_modules_that_a_user_puts_beside_the_code_are_copied_and_their_data_is_named(code: Path) -> None:
    for name in ("mine/__init__.py", "mine/deep/a.py", "mine/a.npy", "htc/priors.json", "one.py", "tests/__init__.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("")
    added = set(code_files(code)) - {
        "conf/data/mine.yaml",
        "htc/__init__.py",
        "htc/new.py",
        "hydra_plugins/htc_launch.py",
    }
    with_git = (code / ".git").is_dir()
    # Without git, the folder may be the one of all installed packages.
    assert added == ({"mine/__init__.py", "mine/deep/a.py", "one.py"} if with_git else set())
    assert other_files(code) == ["htc/key.pem", "htc/priors.json", *(["mine/a.npy"] if with_git else [])]


def test_folders_that_jobs_import_from_and_that_are_not_copied_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "extra").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'extra'}:{ROOT}:/nowhere")
    assert code_remarks() == []
    (tmp_path / "extra" / "mine.py").write_text("")
    (remark,) = code_remarks()
    assert str(tmp_path / "extra") in remark
