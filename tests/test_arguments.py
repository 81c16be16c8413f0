"""Parsing of a command's arguments: every kind of argument, and every refusal."""

from __future__ import annotations

import pytest

from htc.arguments import Arguments, parse_arguments, read_count, read_flag
from htc.errors import UserError


def parse(arguments: list[str]) -> Arguments:
    """Parse the arguments of a command with own keys, keys of the configuration, an option and one word."""
    return parse_arguments(
        arguments, "COMMAND", keys=("run", "out"), config_keys=("seed", "model.mask_flow"), options=("--json",),
        max_words=1,
    )  # fmt: skip


ACCEPTED = {
    "nothing": ([], Arguments()),
    "own key": (["out=DIR"], Arguments(values={"out": "DIR"})),
    "two own keys": (["out=DIR", "run=RUN"], Arguments(values={"out": "DIR", "run": "RUN"})),
    "value with an equals sign": (["out=a=b"], Arguments(values={"out": "a=b"})),
    "override": (["seed=1"], Arguments(overrides=["seed=1"])),
    "override without a value": (["seed="], Arguments(overrides=["seed="])),
    "override that is given twice": (["seed=2", "seed=1"], Arguments(overrides=["seed=2", "seed=1"])),
    "word": (["FILE"], Arguments(words=["FILE"])),
    "word that is the name of a key of the configuration": (["seed"], Arguments(words=["seed"])),
    "option": (["--json"], Arguments(options={"--json"})),
    "option that is given twice": (["--json", "--json"], Arguments(options={"--json"})),
    "all kinds in any order": (
        ["--json", "model.mask_flow=true", "FILE", "out=DIR", "seed=1"],
        Arguments({"out": "DIR"}, ["model.mask_flow=true", "seed=1"], ["FILE"], {"--json"}),
    ),
}


@pytest.mark.parametrize(("arguments", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_arguments_are_sorted_by_kind(arguments: list[str], expected: Arguments) -> None:
    assert parse(arguments) == expected


REFUSED = {
    "similar option": (["--jsn"], "--jsn is not an option of this command; did you mean --json; usage: COMMAND."),
    "other option": (["-x"], "-x is not an option of this command; usage: COMMAND."),
    "option with a value": (
        ["--json=1"], "--json=1 is not an option of this command; did you mean --json; usage: COMMAND.",
    ),
    "own key without an equals sign": (["out"], "out has no value: write out=VALUE."),
    "own key with an empty value": (["out="], "out has no value: write out=VALUE."),
    "own key that is given twice": (["out=a", "out=b"], "out is given twice, as 'a' and 'b': give it once."),
    "similar key": (["ot=a"], "ot is not a key of this command; did you mean out; usage: COMMAND."),
    "last part of a key": (
        ["mask_flw=true"], "mask_flw is not a key of this command; did you mean model.mask_flow; usage: COMMAND.",
    ),
    "other key": (["zzz=1"], "zzz is not a key of this command; usage: COMMAND."),
    "one word too many": (["FILE", "OTHER"], "OTHER is not of the form KEY=VALUE; usage: COMMAND."),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_argument_that_the_command_does_not_know_is_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("argument", ["FILE", "seed=1", "--json"])
def test_command_without_keys_words_and_options_refuses_all_arguments(argument: str) -> None:
    with pytest.raises(UserError, match="usage: COMMAND"):
        parse_arguments([argument], "COMMAND")


def test_own_key_takes_precedence_over_a_key_of_the_configuration() -> None:
    parsed = parse_arguments(["name=a"], "COMMAND", keys=["name"], config_keys=["name"])
    assert parsed == Arguments(values={"name": "a"})


@pytest.mark.parametrize(
    ("values", "default", "expected"),
    [
        ({"draw": "true"}, False, True), ({"draw": "True"}, False, True), ({"draw": "FALSE"}, True, False),
        ({}, True, True), ({}, False, False), ({"other": "true"}, False, False),
    ],
)  # fmt: skip
def test_flag_is_true_or_false(values: dict[str, str], default: bool, expected: bool) -> None:
    assert read_flag(values, "draw", default) is expected


@pytest.mark.parametrize("value", ["yes", "1", "t", " true"])
def test_flag_of_another_value_is_refused(value: str) -> None:
    with pytest.raises(UserError) as caught:
        read_flag({"draw": value}, "draw", True)
    assert str(caught.value) == f"draw={value} must be true or false."


@pytest.mark.parametrize(
    ("values", "expected"), [({"jobs": "3"}, 3), ({"jobs": "1"}, 1), ({"jobs": "007"}, 7), ({}, 4)]
)
def test_count_is_a_whole_number(values: dict[str, str], expected: int) -> None:
    assert read_count(values, "jobs", default=4, lowest=1) == expected


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two", "²", "1e3", " 1"])
def test_count_that_is_too_small_or_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(UserError) as caught:
        read_count({"jobs": value}, "jobs", default=4, lowest=1)
    assert str(caught.value) == f"jobs={value} must be a whole number of 1 or more."
