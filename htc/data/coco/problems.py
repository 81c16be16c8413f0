"""What can be wrong with a data set, as sentences with the file and the id."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from enum import Enum

from htc.errors import UserError


class Severity(Enum):
    """What becomes of it: training refuses it, training repairs it, or it deserves a look."""

    fault = "fault"
    repair = "repaired"
    note = "note"


@dataclass(frozen=True)
class Problem:
    severity: Severity
    kind: str
    """A few words that problems of the same sort share, for counting."""
    sentence: str


def fault(kind: str, sentence: str) -> Problem:
    return Problem(Severity.fault, kind, sentence)


def refuse(problems: list[Problem]) -> None:
    """Raise UserError with the first fault, where there is one, and the number of the others."""
    faults = [problem for problem in problems if problem.severity is Severity.fault]
    if not faults:
        return
    others = f" ({len(faults) - 1} more: python -m htc.data.check lists them)" if len(faults) > 1 else ""
    raise UserError(f"{faults[0].sentence.rstrip('.')}{others}.")


def shown(value: object) -> str:
    """A value from a file, on one line and not too long."""
    return reprlib.repr(value)
