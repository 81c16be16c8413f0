"""Failures of a run: what caused them, and whether the run is started again."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from htc.runs.record import Failure


def describe_exit(code: int) -> str:
    """Describe how a process ended, by its exit status: negative for the number of a signal."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"the process ended with status {code}"


def failure_cause(code: int, recorded: str | None, peer_failure: str | None) -> str:
    """Return the cause of a failure.

    Args:
        code: Exit status of the run's process; negative for the number of a signal.
        recorded: Error that the run wrote to run.json. It is ignored after a signal: a killed process writes nothing,
            so that the error is that of an earlier failure.
        peer_failure: Failure of another process of a distributed run, for which this one waited in vain.
    """
    return peer_failure or (recorded if code > 0 else None) or describe_exit(code)


def failures_since_checkpoint(failures: Sequence[Failure], submission: str, step: int | None) -> list[Failure]:
    """Return the failures of a submission's run since its newest checkpoint.

    Args:
        failures: All recorded failures of the run.
        submission: Id of the submission; failures under earlier submissions do not count.
        step: Step of the newest checkpoint; None if there is none.
    """
    return [each for each in failures if each.submission == submission and each.step == step]


def should_retry(earlier: Sequence[Failure], cause: str, retries: int) -> bool:
    """Return whether a run that has just failed is started again.

    The run is given up if it failed for the same cause before, or `retries` times for any, since its newest checkpoint.

    Args:
        earlier: Failures since the newest checkpoint, without the present one.
        cause: Cause of the present failure.
        retries: Number of times that a run is started again without a new checkpoint in between.
    """
    return len(earlier) < retries and all(failure.cause != cause for failure in earlier)
