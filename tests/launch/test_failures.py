"""The retry policy: which failures count, and when a run is given up."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from htc.launch.job.failures import describe_exit, failure_cause, failures_since_checkpoint, should_retry
from htc.runs.record import Failure, RunRecord


def failure(cause: str, submission: str = "now", step: int | None = None) -> Failure:
    return Failure(None, cause, step, submission, None)


@pytest.mark.parametrize(
    ("earlier", "cause", "retries", "expected"),
    [
        ([], "a", 3, True),
        (["a"], "a", 3, False),
        (["a"], "b", 3, True),
        (["a", "b"], "c", 3, True),
        (["a", "b"], "a", 3, False),
        (["a", "b", "c"], "d", 3, False),
        ([], "a", 1, True),
        (["a"], "b", 1, False),
    ],
    ids=[
        "first failure", "same cause again", "another cause", "third cause", "a cause that comes back",
        "more failures than retries", "one retry", "one retry is used up",
    ],
)  # fmt: skip
def test_a_run_is_retried_until_a_cause_repeats_or_the_retries_are_used_up(
    earlier: list[str], cause: str, retries: int, expected: bool
) -> None:
    assert should_retry(list(map(failure, earlier)), cause, retries) is expected


def test_only_failures_of_this_submission_since_the_newest_checkpoint_count() -> None:
    before_any, of_another, at_four = failure("a"), failure("c", "earlier", 4), failure("b", step=4)
    failures = [before_any, of_another, at_four]
    assert failures_since_checkpoint(failures, "now", 4) == [at_four]
    assert failures_since_checkpoint(failures, "now", None) == [before_any]
    assert failures_since_checkpoint(failures, "now", 8) == []


@pytest.mark.parametrize("launch", [{}, {"failures": None}, {"failures": ["damaged", None, 7]}])
def test_a_damaged_record_holds_no_failures(launch: dict[str, Any]) -> None:
    record = RunRecord.from_json({"launch": launch})
    assert record.launch is not None
    assert failures_since_checkpoint(record.launch.failures, "now", 4) == []


@pytest.mark.parametrize(
    ("code", "recorded", "peer_failure", "cause"),
    [
        (1, "the disk is full", None, "the disk is full"),
        (1, None, None, "the process ended with status 1"),
        (-signal.SIGKILL, None, None, "killed by SIGKILL"),
        (-signal.SIGKILL, "an earlier error", None, "killed by SIGKILL"),
        (-signal.SIGKILL, None, "process 1 on n2: killed by SIGSEGV", "process 1 on n2: killed by SIGSEGV"),
        (1, "a time-out", "process 1 on n2: killed by SIGSEGV", "process 1 on n2: killed by SIGSEGV"),
    ],
)
def test_the_cause_is_that_of_the_process_which_failed_first(
    code: int, recorded: str | None, peer_failure: str | None, cause: str
) -> None:
    assert failure_cause(code, recorded, peer_failure) == cause


def test_an_exit_is_described_by_its_signal_or_status() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-15) == "killed by SIGTERM"
    assert describe_exit(3) == "the process ended with status 3"
