"""Problems of a data set: sentences that name the file and the id."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from enum import Enum

from htc.errors import UserError


class Severity(Enum):
    """Consequence of a problem: training refuses it (fault), repairs it, or ignores it (note)."""

    fault = "fault"
    repair = "repaired"
    note = "note"


@dataclass(frozen=True)
class Problem:
    """One problem of a data set."""

    severity: Severity
    kind: str
    """A few words that name the kind of problem, by which problems are counted."""
    sentence: str


def fault(kind: str, sentence: str) -> Problem:
    """Return a problem that training refuses."""
    return Problem(Severity.fault, kind, sentence)


def refuse(problems: list[Problem]) -> None:
    """Raise UserError with the first fault and the number of the others; do nothing if there is no fault."""
    faults = [problem for problem in problems if problem.severity is Severity.fault]
    if not faults:
        return
    others = f" ({len(faults) - 1} more: python -m htc.data.check lists them)" if len(faults) > 1 else ""
    raise UserError(f"{faults[0].sentence.rstrip('.')}{others}.")


def short_repr(value: object) -> str:
    """Return the repr of a value from a file, shortened to one line."""
    return reprlib.repr(value)
