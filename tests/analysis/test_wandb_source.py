"""Tables from wandb alone equal the tables from the run folders of the same runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from analysis.make_tables import main
from htc.config.schema import Config
from htc.runs.evaluations import evaluation_folder
from htc.runs.pool import SelectedRun, change_rows
from tests.helpers.command import run_code
from tests.helpers.run_folders import ON, run_writer
from tests.helpers.tracked_runs import track

CONTENT = {split: {"annotations": split * 9, "images": 12, "files": "abc", "stuff": None} for split in ("train", "val")}
KILLED = """
import os, signal, sys, time
from pathlib import Path
from tests.helpers.tracked_runs import start_tracking
start_tracking(Path(sys.argv[1]))
for file in Path(sys.argv[1]).glob("wandb/*/*.wandb"):
    while b"running" not in file.read_bytes():
        time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))


def one_beta(config: Config) -> None:
    config.model.semantic_loss_weight = 2.0


def write_pool(runs: Path) -> None:
    """Write runs of everything that tables distinguish, below a folder."""
    write = run_writer(runs)
    git = {"commit": "1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d", "dirty": True, "diff": "+ api_key = 'hunter2hunter2'"}
    for seed, mask_ap in enumerate((0.28, 0.3)):
        folder = write(mask_ap=mask_ap, seed=seed, git=git, content=CONTENT, data={"name": "mine"}, **ON)
        results = evaluation_folder(folder, "default")
        per_category = {"bbox": {"a.b/c d": 1.0}, "segm": {"hot dog": None}}
        results.write({**results.read(), "per_category": per_category, "data": CONTENT["val"]})
        paper = {**results.read(), "settings": {**results.read()["settings"], "eval.score_threshold": 0.0}}
        paper["segm"]["AP"] = mask_ap + 0.01
        evaluation_folder(folder, "paper").write(paper)
    write(
        mask_ap=0.25, seed=0, content=CONTENT, data={"name": "mine"}, interleaved=True, mask_flow=False, semantic=True
    )
    write(mask_ap=0.22, seed=0, sweep=None, change=one_beta, **ON)
    write(mask_ap=0.27, seed=0, sweep=None, suffix="-r2", change=one_beta, end="2025-02-01T10:00:00+00:00", **ON)
    write(status="failed", seed=3, interleaved=True, mask_flow=True, semantic=False)
    write(status="preempted", seed=4, interleaved=True, mask_flow=True, semantic=False)
    write(status="running", seed=5, interleaved=True, mask_flow=True, semantic=False)
    change_rows(
        runs, "components",
        lambda rows: [
            SelectedRun(row.run, label=f"row {index}", overrides=["model.semantic=true", f"seed={index}"])
            for index, row in enumerate([*rows, SelectedRun("htc-00000000")])
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pool `runs`, and with `offline`, which holds only what wandb wrote of the same runs."""
    place = tmp_path_factory.mktemp("pools")
    runs = place / "runs"
    write_pool(runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place / "home"))
        for folder in sorted(runs.iterdir()):
            if folder.name.startswith("."):
                continue
            if json.loads((folder / "run.json").read_text())["status"] == "running":
                run_code(KILLED, folder)
            else:
                track(folder)
    for file in runs.glob("*/wandb/offline-run-*/*.wandb"):
        target = place / "offline" / file.relative_to(runs)
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
    return place


def tables(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, bytes]:
    """Run the command, and return the content of the files that it writes."""
    assert main([*arguments, f"out={out}"]) == 0, capsys.readouterr().err
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("more", [[], ["eval=paper"], ["sweep=components"]], ids=["all", "paper", "sweep"])
def test_tables_from_offline_files_are_those_of_the_run_folders_to_the_byte(
    pools: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tables(tmp_path / "a", capsys, f"runs={pools / 'runs'}", "intervals=false", *more)
    printed = capsys.readouterr()
    found = tables(tmp_path / "b", capsys, f"from=offline:{pools / 'offline'}", *more)
    again = capsys.readouterr()
    assert found == expected and {"comparison.md", "components.md", "study_components.md"} <= set(found)
    assert again.out == printed.out
    if not more:
        assert all(f"Not finished, {status}" in printed.out for status in ("failed", "preempted", "running"))
        assert "29.0 ± 1.4" in printed.out and "htc-00000000` is missing" in printed.out
        assert again.err == printed.err.replace(str(pools / "runs"), f"offline:{pools / 'offline'}")
