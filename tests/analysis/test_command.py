"""What the commands of the tables, figures, reports and dashboards share."""

from __future__ import annotations

import pytest

import analysis.dashboards
import analysis.figures.__main__
import analysis.make_tables
import analysis.report.__main__
from analysis.command import Values, read_count, run
from htc.errors import UserError

COMMANDS = [analysis.make_tables, analysis.figures.__main__, analysis.report.__main__, analysis.dashboards]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_is_printed_and_nothing_is_done(command: object, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([word, "nonsense"]) == 0  # type: ignore[attr-defined]
    assert capsys.readouterr().out == command.USAGE  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS[:3], ids=lambda module: module.__name__)
@pytest.mark.parametrize("number", ["99", "-1", "1e3", "²", "many"])
def test_number_of_resamples_is_refused_in_one_sentence(
    command: object, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([f"resamples={number}"]) == 2  # type: ignore[attr-defined]
    assert capsys.readouterr().err == f"resamples={number} must be a whole number, 100 or more.\n"


def test_values_are_those_given_over_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[Values, Values]] = []

    def body(values: Values, given: Values) -> int:
        seen.append((values, given))
        return 7

    assert run(["b=3"], "usage", "line", {"a": "1", "b": "2"}, body) == 7
    assert seen == [({"a": "1", "b": "3"}, {"b": "3"})]
    assert run(["c=3"], "usage", "line", {"a": "1"}, body) == 2 and len(seen) == 1
    assert "c is not a key of this command" in capsys.readouterr().err


def test_counts_have_a_lowest_value() -> None:
    assert read_count({"n": "0"}, "n", 0) == 0
    with pytest.raises(UserError, match="n=0 must be a whole number, 1 or more"):
        read_count({"n": "0"}, "n", 1)
