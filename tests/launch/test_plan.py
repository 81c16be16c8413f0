"""What a launch does with each run, by the run's state and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from htc.launch.plan import PlannedRun, action_for
from htc.launch.status.states import STATES
from htc.launch.submission import Row
from htc.runs.pool import signature_of

ACTIONS = {
    "running": ("leave", "leave"),
    "queued": ("leave", "leave"),
    "done": ("leave", "leave"),
    "unknown": ("leave", "leave"),
    "failed": ("start", "resume"),
    "cancelled": ("start", "resume"),
    "preempted": ("start", "resume"),
    "lost": ("start", "resume"),
    "missing": ("start", "resume"),
    "trained": ("start", "resume"),
    "new": ("start", "resume"),
}


def test_the_actions_cover_every_state() -> None:
    assert set(ACTIONS) == {*STATES, "new"}


@pytest.mark.parametrize(("state", "actions"), ACTIONS.items())
def test_a_run_is_left_alone_started_or_resumed(state: str, actions: tuple[str, str], tmp_path: Path) -> None:
    without, with_checkpoint = actions
    run = PlannedRun(Row("run", {}, []), tmp_path, "sweep", state, [])
    assert action_for(state, has_checkpoint=False) == run.action == without
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_00000004.pt").touch()
    assert action_for(state, has_checkpoint=True) == run.action == with_checkpoint


def test_a_trained_run_without_its_evaluation_is_evaluated(tmp_path: Path) -> None:
    for state in STATES:
        action = "leave" if ACTIONS[state][0] == "leave" else "evaluate"
        run = PlannedRun(Row("run", {}, []), tmp_path, "sweep", state, [], trained=True)
        assert action_for(state, has_checkpoint=True, trained=True) == run.action == action


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("HTC-seed0-0123abcd", "0123abcd"),
        ("HTC-0123abcd-r2", "0123abcd"),
        ("HTC-0123abcd-r12", "0123abcd"),
        ("HTC-0123abc", ""),
        ("HTC-0123ABCD", ""),
        ("0123abcd", ""),
    ],
)
def test_the_signature_is_read_from_the_end_of_a_folder_name(name: str, signature: str) -> None:
    assert signature_of(name) == signature
