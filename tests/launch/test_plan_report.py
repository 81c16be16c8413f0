"""Reports of a launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from htc.launch.plan_report import launch_report, status_command


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("runs/components", "python -m htc.status components"),
        ("/scratch/my runs/components", "python -m htc.status components 'runs=/scratch/my runs'"),
    ],
)
def test_report_names_the_command_that_shows_these_runs(folder: str, command: str) -> None:
    assert launch_report(Path(folder), [], [], 0).endswith(f"See them with: {command}")


def test_other_actions_are_for_the_same_folder() -> None:
    assert status_command(Path("elsewhere/beta"), "retry") == "python -m htc.status retry beta runs=elsewhere"
