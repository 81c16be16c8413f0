"""The decision table of run states: each row, and the precedence between rows."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations
from typing import Any

import pytest

from htc.launch.slurm import ENDED_BADLY, PENDING_STATES, RUNNING_STATES
from htc.launch.status.states import STATES, RunFacts, decide_state

# The rows of the table in order of precedence: facts for which this row is the only one that applies, except the last.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("done", {"status": "done", "has_results": True}),
    ("running", {"is_locked": True}),
    ("queued", {"job_state": "PENDING"}),
    ("running", {"job_state": "RUNNING"}),
    ("failed", {"failed_to_begin": True, "status": "queued", "cancelled": False}),
    ("failed", {"failed_to_begin": True, "status": "done", "cancelled": False}),
    ("queued", {"managed": True, "status": "queued", "cancelled": False}),
    ("queued", {"managed": True, "status": "done", "cancelled": False}),
    ("unknown", {"launcher": "slurm", "slurm_known": False}),
    ("failed", {"status": "failed"}),
    ("failed", {"status": "done", "has_error": True}),
    ("failed", {"status": "queued", "job_state": "FAILED", "cancelled": False}),
    ("trained", {"status": "done"}),
    ("cancelled", {"cancelled": True}),
    ("cancelled", {"job_state": "CANCELLED"}),
    ("preempted", {"status": "preempted"}),
    ("missing", {"exists": False, "slurm_known": True}),
    ("lost", {}),
]


def compatible_pairs() -> list[tuple[str, str, dict[str, Any]]]:
    """Facts to which two rows apply -> the state of the first row, that of the second, and the facts."""
    pairs = []
    for (first, of_first), (second, of_second) in combinations(ROWS, 2):
        conflict = any(of_first[key] != of_second[key] for key in of_first.keys() & of_second.keys())
        # A run that failed is never unknown: that row does not apply together with `failed`.
        if not conflict and (first, second) != ("unknown", "failed"):
            pairs.append((first, second, {**of_second, **of_first}))
    return pairs


@pytest.mark.parametrize(("state", "facts"), ROWS)
def test_each_row_gives_its_state(state: str, facts: dict[str, Any]) -> None:
    assert decide_state(RunFacts(**facts)) == state


@pytest.mark.parametrize(("first", "second", "facts"), compatible_pairs())
def test_an_earlier_row_takes_precedence_over_a_later_one(first: str, second: str, facts: dict[str, Any]) -> None:
    assert decide_state(RunFacts(**facts)) == first, f"{first} takes precedence over {second}"


def test_the_rows_cover_every_state_and_every_fact() -> None:
    assert {state for state, _ in ROWS} == set(STATES)
    assert {fact for _, facts in ROWS for fact in facts} == {field.name for field in fields(RunFacts)}


@pytest.mark.parametrize("job_state", PENDING_STATES)
def test_a_job_that_waits_is_queued_whatever_the_run_recorded(job_state: str) -> None:
    for status in (None, "queued", "running", "preempted", "failed", "done"):
        assert decide_state(RunFacts(status=status, launcher="slurm", job_state=job_state)) == "queued"


@pytest.mark.parametrize("job_state", RUNNING_STATES)
def test_a_job_that_runs_is_running_whatever_the_run_recorded(job_state: str) -> None:
    for status in (None, "queued", "running", "preempted", "failed", "done"):
        assert decide_state(RunFacts(status=status, launcher="slurm", job_state=job_state)) == "running"


@pytest.mark.parametrize("job_state", ENDED_BADLY)
def test_a_job_that_ended_badly_before_the_run_recorded_anything_failed(job_state: str) -> None:
    assert decide_state(RunFacts(status="queued", launcher="slurm", job_state=job_state)) == "failed"


@pytest.mark.parametrize("job_state", [None, "COMPLETED", *ENDED_BADLY])
@pytest.mark.parametrize(
    ("status", "state"),
    [
        (None, "lost"),
        ("running", "lost"),
        ("done", "trained"),
        ("preempted", "preempted"),
        ("failed", "failed"),
    ],
)
def test_without_signs_of_life_the_recorded_status_decides(
    job_state: str | None, status: str | None, state: str
) -> None:
    assert decide_state(RunFacts(status=status, launcher="slurm", job_state=job_state)) == state
    assert decide_state(RunFacts(status=status, launcher="local")) == state
    assert decide_state(RunFacts(status=status)) == state


@pytest.mark.parametrize("status", ["running", "preempted", "failed"])
def test_a_live_launcher_only_keeps_runs_in_the_queue_that_are_recorded_as_queued(status: str) -> None:
    assert decide_state(RunFacts(status=status, launcher="local", managed=True)) != "queued"


def test_a_cancelled_run_leaves_the_queue_of_a_live_launcher() -> None:
    facts = RunFacts(status="queued", launcher="local", managed=True, cancelled=True)
    assert decide_state(facts) == "cancelled"


@pytest.mark.parametrize("status", [None, "queued", "running", "preempted", "done"])
def test_a_run_on_a_slurm_that_does_not_answer_is_unknown_unless_it_failed(status: str | None) -> None:
    assert decide_state(RunFacts(status=status, launcher="slurm", slurm_known=False)) == "unknown"
    assert decide_state(RunFacts(status=status, launcher="slurm", slurm_known=False, cancelled=True)) == "unknown"
    assert decide_state(RunFacts(status="failed", launcher="slurm", slurm_known=False)) == "failed"


@pytest.mark.parametrize("launcher", ["local", None])
def test_a_slurm_that_does_not_answer_matters_to_its_own_runs_alone(launcher: str | None) -> None:
    assert decide_state(RunFacts(status="running", launcher=launcher, slurm_known=False)) == "lost"


@pytest.mark.parametrize("status", [None, "queued", "running", "preempted", "failed"])
def test_results_of_a_run_that_is_not_recorded_as_done_do_not_make_it_done(status: str | None) -> None:
    assert decide_state(RunFacts(status=status, has_results=True)) != "done"
