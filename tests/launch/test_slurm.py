"""The Slurm launcher's reading of options and of the output of Slurm's commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from htc.errors import UserError
from htc.launch.sbatch import minutes, sbatch_option
from htc.launch.slurm import job_ids, shows_preemption

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 90),
        (15, 15),
        ("10:30", 11),
        ("61:00", 61),
        ("0:01", 1),
        ("2:00:00", 120),
        ("0:59:01", 60),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-00:00:00", 1440),
        ("1-00:00:01", 1441),
    ],
)
def test_a_time_limit_in_any_format_of_sbatch_is_read_in_minutes_rounded_up(time: object, expected: int) -> None:
    assert minutes(time) == expected


def test_what_is_no_time_limit_or_no_option_is_refused() -> None:
    for time in ("soon", "0", "-3", "00:00", "1:2:3:4", "1-", "2h"):
        with pytest.raises(UserError, match=f"launcher.time={time}"):
            minutes(time)
    with pytest.raises(UserError, match=r"launcher\.sbatch has 'exclude=n1'"):
        sbatch_option("exclude=n1")
    assert sbatch_option("--exclude=n1,n2") == ("exclude", "n1,n2")


def test_options_of_sbatch_can_be_written_as_the_manual_and_the_error_message_show() -> None:
    with pytest.raises(UserError) as caught:
        sbatch_option("exclude=n1")
    manual = (ROOT / "docs" / "cluster.md").read_text()
    for text, names in ((caught.value.sentence, ["exclude"]), (manual, ["exclude", "mail-type"])):
        (written,) = re.findall(r"'(launcher\.sbatch=\[.*?\])'", text)
        options: Any = OverridesParser.create().parse_override(written).value()
        assert [sbatch_option(option)[0] for option in options] == names


def test_jobs_that_slurm_lists_as_one_entry_are_separated() -> None:
    assert job_ids("7_[0-2,5%4]") == ["7_0", "7_1", "7_2", "7_5"]
    assert job_ids("7_3") == ["7_3"]
    assert job_ids("12") == ["12"]


@pytest.mark.parametrize(
    ("listed", "ids"),
    [
        ("7_[3]", ["7_3"]),
        ("7_[3%1]", ["7_3"]),
        ("7_[0-1]", ["7_0", "7_1"]),
        ("7_[9-11,20]", ["7_9", "7_10", "7_11", "7_20"]),
        ("7_[0-3:2]", ["7_[0-3:2]"]),
        ("7_[0-1,...]", ["7_[0-1,...]"]),
    ],
)
def test_a_list_of_jobs_is_read_and_an_unknown_notation_kept_as_it_is(listed: str, ids: list[str]) -> None:
    assert job_ids(listed) == ids


@pytest.mark.parametrize(
    ("state", "time", "preempted"),
    [
        ("RUNNING", "2026-03-01T10:00:00", True),
        ("RUNNING", "None", False),
        ("RUNNING", "Unknown", False),
        ("PENDING", "2026-03-01T10:00:00", False),
        ("COMPLETING", "2026-03-01T10:00:00", False),
    ],
)
def test_only_a_running_job_with_a_time_of_preemption_is_preempted(state: str, time: str, preempted: bool) -> None:
    text = (
        "JobId=12 ArrayJobId=10 ArrayTaskId=2 JobName=components\n"
        f"   JobState={state} Reason=None Dependency=(null)\n"
        f"   PreemptEligibleTime=2026-03-01T09:00:00 PreemptTime={time}\n"
    )
    assert shows_preemption(text) is preempted
