"""Dashboards: the requests of the real wandb-workspaces at a server on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.dashboards import KEPT_IN, main
from tests.helpers.command import command, run_code
from tests.helpers.wandb_server import StoredRun, WandbServer, wandb_server

SECTIONS = ["Sweep overview", "Components", "Curves by stage and task", "Predictions"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A server with the project me/htc, which has a run of the sweep components; this process is logged in there."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with wandb_server() as running:
        running.runs["a"] = StoredRun("a", "htc", tags=["1a2b3c4d", "components"])
        for name, value in running.variables.items():
            monkeypatch.setenv(name, value)
        yield running


def normalised(request: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a request, with parsed spec and without what is drawn at random at each call."""
    text = re.sub(r'"(__id__|id)": ?"[a-z0-9]{8,13}"', r'"\1": "ID"', json.dumps(json.loads(request["spec"])))
    names = {"name": "NAME"} if request["type"] == "runs" else {}
    return {**request, **names, "spec": json.loads(text)}


def panels_of(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the panels of a workspace by the title of their section."""
    return {each["name"]: each["panels"] for each in spec["section"]["panelBankConfig"]["sections"]}


def test_running_twice_updates_the_one_workspace_and_the_one_report(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    first, second = capsys.readouterr().out.split("workspace: ")[1:]
    assert first == second and server.address in first
    assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
    assert [request["type"] for request in server.saved] == ["project-view", "runs"] * 2
    assert [request.get("id") in server.views for request in server.saved] == [False, False, True, True]
    before, after = server.saved[:2], server.saved[2:]
    for old, new in zip(before, after, strict=True):
        assert {**normalised(new), "id": None} == {**normalised(old), "id": None}
        assert new["displayName"] == "HTC: htc"


def test_panels_show_overview_components_curves_and_predictions(server: WandbServer, tmp_path: Path) -> None:
    assert main(["project=me/htc", "sweep=components", f"runs={tmp_path}"]) == 0
    workspace, report = server.saved
    spec = json.loads(workspace["spec"])
    panels = panels_of(spec)
    assert list(panels) == SECTIONS
    bars = {each["config"]["chartTitle"]: each["config"] for each in panels["Components"]}
    assert [bars[f"mask AP by {idea}"]["groupBy"] for idea in ("interleaving", "mask flow", "semantic branch")] == [
        "model.value.interleaved", "model.value.mask_flow", "model.value.semantic",
    ]  # fmt: skip
    curves = {each["config"]["chartTitle"]: each["config"] for each in panels["Curves by stage and task"]}
    assert all(curve["xAxis"] == "step" for curve in curves.values())
    assert curves["loss of masks, by stage"]["metricRegex"] == r"train/losses/s\d+\.loss_mask"
    assert curves["losses of stage 2, by task"]["metrics"] == [
        f"train/losses/s1.loss_{task}" for task in ("cls", "bbox", "mask")
    ]
    assert panels["Predictions"][0]["config"]["mediaKeys"] == ["predictions"]
    (runset,) = spec["section"]["runSets"]
    assert "components" in json.dumps(runset["filters"]) and "tags" in json.dumps(runset["filters"])
    assert "label" in json.dumps(runset["grouping"])

    blocks = json.loads(report["spec"])["blocks"]
    grids = [block for block in blocks if block["type"] == "panel-grid"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert headings == SECTIONS and len(grids) == 4
    assert "python -m analysis.make_tables from=wandb:me/htc sweep=components" in report["spec"]
    places = [panel["layout"] for panel in grids[0]["metadata"]["panelBankSectionConfig"]["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places), "panels lie upon each other"


def test_each_sweep_has_dashboards_of_its_own(server: WandbServer, tmp_path: Path) -> None:
    for arguments in ([], ["sweep=components"], [], ["sweep=components"]):
        assert main(["project=me/htc", f"runs={tmp_path}", *arguments]) == 0
    assert len(server.views) == 4 and len(json.loads((tmp_path / KEPT_IN).read_text())) == 2


def test_deleted_dashboards_are_made_anew(server: WandbServer, tmp_path: Path) -> None:
    assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    server.views.clear()
    for _ in range(2):
        assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    assert len(server.views) == 2


def test_damaged_file_of_addresses_is_as_none(server: WandbServer, tmp_path: Path) -> None:
    (tmp_path / KEPT_IN).write_text("{")
    for _ in range(2):
        assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    assert len(server.views) == 2


def test_what_was_changed_by_hand_is_replaced_in_the_same_workspace(server: WandbServer, tmp_path: Path) -> None:
    assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    view = next(view for view in server.views.values() if view["type"] == "project-view")
    spec = json.loads(view["spec"])
    spec["section"]["panelBankConfig"]["sections"].pop()
    view["spec"] = json.dumps(spec)
    assert main(["project=me/htc", f"runs={tmp_path}"]) == 0
    assert list(panels_of(json.loads(server.views[view["id"]]["spec"]))) == SECTIONS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "project is missing"),
        (["project=htc"], "project=htc does not name a project"),
        (["project=me/missing"], "wandb has no such project"),
        (["project=me/htc", "sweep=component"], "sweep=component has no run in me/htc"),
        (["project=me/htc", "sweep=a=b"], "wandb's filters do not take"),
        (["projct=me/htc"], "did you mean project"),
    ],
)
def test_unusable_argument_is_refused_in_one_sentence_and_saves_nothing(
    arguments: list[str], words: str, server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"runs={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == ""
    own = [line for line in captured.err.splitlines() if not line.startswith("wandb:")]
    assert len(own) == 1
    assert not server.saved and not (tmp_path / KEPT_IN).exists()


def test_folder_that_cannot_be_written_is_named(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["project=me/htc", f"runs={tmp_path / 'file'}"]) == 2
    assert f"runs={tmp_path / 'file'} cannot be written" in capsys.readouterr().err
    assert not server.saved


def test_command_prints_the_addresses_alone(server: WandbServer, tmp_path: Path) -> None:
    environment = server.environment(HOME=str(tmp_path))
    done = command("analysis.dashboards", "project=me/htc", f"runs={tmp_path}", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == ["workspace", "report"]


@pytest.mark.parametrize("package", ["wandb", "wandb_workspaces"])
def test_missing_package_is_named(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from analysis.dashboards import main\n"
        f"sys.exit(main(['project=me/htc', 'runs={tmp_path}']))\n"
    )
    done = run_code(program)
    assert done.returncode == 2 and "is not installed: pip install wandb-workspaces" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_imports_neither_wandb_nor_pytorch() -> None:
    program = (
        "import sys\nfrom analysis.dashboards import main\nassert main(['--help']) == 0\n"
        "sys.exit(9 if {'wandb', 'wandb_workspaces', 'torch', 'pandas'} & set(sys.modules) else 0)\n"
    )
    done = run_code(program)
    assert done.returncode == 0 and all(f"{key}=" in done.stdout for key in ("project", "sweep", "runs"))
