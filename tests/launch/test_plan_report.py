"""Reports of a launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from htc.config.schema import Config
from htc.launch.plan import PlannedRun, RequestedRun
from htc.launch.plan_report import launch_report, status_command
from htc.launch.submission import Row


@pytest.mark.parametrize(
    ("pool", "command"),
    [
        ("runs", "python -m htc.status components"),
        ("/scratch/my runs", "python -m htc.status components 'runs=/scratch/my runs'"),
    ],
)
def test_report_names_the_command_that_shows_these_runs(pool: str, command: str) -> None:
    request = RequestedRun(Config(runs=pool, sweep="components"), [])
    run = PlannedRun(Row("run", {}, []), Path(pool), "components", "done", [request])
    assert launch_report([run], [], 1).endswith(f"See them with: {command}")


def test_other_actions_are_for_the_same_folder() -> None:
    assert status_command(Path("elsewhere"), "retry", "beta") == "python -m htc.status retry beta runs=elsewhere"
