"""Imports of htc.launch: no circles, layers that point down only, and no PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = "htc.launch."
SHARED = (f"{LAUNCH}sbatch", f"{LAUNCH}slurm", f"{LAUNCH}submission")
"""Modules that both the jobs and the status may import."""


def imports_of(path: Path) -> set[str]:
    """The project's modules that a file imports anywhere, also in functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "htc"}


IMPORTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path)
    for path in sorted((ROOT / "htc" / "launch").rglob("*.py"))
}


def test_there_is_no_circle_of_imports() -> None:
    assert len(list(TopologicalSorter(IMPORTS).static_order())) > len(IMPORTS)


@pytest.mark.parametrize("module", IMPORTS)
def test_a_launch_knows_of_the_configuration_runs_and_errors_alone(module: str) -> None:
    allowed = ["htc.config.", "htc.runs.", LAUNCH]
    exact = {"htc", "htc.errors"}
    if module == f"{LAUNCH}job.worker":
        # The worker is a command that runs an experiment.
        exact |= {"htc.cli", "htc.experiment"}
    if module == f"{LAUNCH}adopt":
        # Two runs of one configuration are told apart by their weights.
        exact.add("htc.checkpoint.files")
    assert [name for name in IMPORTS[module] if name not in exact and not name.startswith(tuple(allowed))] == []


@pytest.mark.parametrize("folder", ["job.", "status."])
def test_jobs_and_status_know_nothing_of_the_launch_above_them(folder: str) -> None:
    members = {module: names for module, names in IMPORTS.items() if module.startswith(LAUNCH + folder)}
    assert members
    for module, names in members.items():
        of_launch = {name for name in names if name.startswith(LAUNCH) and not name.startswith(LAUNCH + folder)}
        assert of_launch <= set(SHARED), module


def test_nothing_imports_pytorch_at_import_time() -> None:
    modules = [*(name.removesuffix(".__init__") for name in IMPORTS), "htc.status", "hydra_plugins.htc_launch"]
    script = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    script += "sys.exit('PyTorch was imported' if 'torch' in sys.modules else 0)"
    result = subprocess.run(
        [sys.executable, "-c", script, *modules], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
