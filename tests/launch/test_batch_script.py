"""The lines of a batch script, run by bash as Slurm runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from htc.errors import UserError
from htc.launch.batch_script import TEARDOWN, complete_commands, setup_lines


def run(folder: Path, commands: list[str], process: str, stop_file: Path | None = None) -> tuple[int, str]:
    """Run a script whose Python process is replaced by a command; return its exit status and its errors."""
    lines = [*setup_lines(folder, {"WORD": "a b"}, commands, stop_file), process, *TEARDOWN]
    answer = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=folder)
    return answer.returncode, answer.stderr


BEGIN = "rm -f 0.begins"
"""What the process does first when its run begins."""


@pytest.mark.parametrize(
    ("commands", "process", "status", "failed"),
    [
        ([], f"{BEGIN}; true", 0, False),
        ([], f"{BEGIN}; exit 3", 3, False),
        ([], "exit 3", 3, True),
        ([], "no-such-python", 127, True),
        (["true", "false", "touch reached"], "true", 1, True),
        (["exit 4"], "true", 4, True),
        (["no-such-command"], "true", 127, True),
        ([], "exit 143", 143, False),
        (["[ -d /nowhere ] && echo x || true"], BEGIN, 0, False),
    ],
)
def test_a_job_that_ends_before_its_run_begins_leaves_a_mark_unless_it_was_cancelled(
    tmp_path: Path, commands: list[str], process: str, status: int, failed: bool
) -> None:
    assert run(tmp_path, commands, process)[0] == status
    assert (tmp_path / "0.failed").exists() is failed
    assert not (tmp_path / "reached").exists(), "a failing line of the setup ends the job"
    # Another start of the job removes the mark.
    run(tmp_path, [], f"[ ! -e 0.failed ] && {BEGIN}")
    assert not (tmp_path / "0.failed").exists()


def test_a_failing_line_is_named_with_its_status(tmp_path: Path) -> None:
    _, errors = run(tmp_path, ["X='a b'; [ \"$X\" = c ]"], "true")
    assert errors == "launcher.setup: X='a b'; [ \"$X\" = c ]: failed (status 1)\n"


def test_lines_that_belong_together_stay_together(tmp_path: Path) -> None:
    lines = ["for x in 1 2; do", "  false", "  echo $x >> out", "done", "cat <<END >> out", "word", "END", "export Y=1"]
    assert complete_commands(lines) == ["\n".join(lines[:4]), "\n".join(lines[4:7]), lines[7]]
    assert run(tmp_path, [*lines, '[ "$WORD" = "" ]'], f'{BEGIN}; echo "$Y $WORD" >> out')[0] == 0
    assert (tmp_path / "out").read_text() == "1\n2\nword\n1 a b\n"


@pytest.mark.parametrize("lines", [["if true; then"], ["echo 'a"], ["true", ") x"]])
def test_lines_that_bash_cannot_read_are_refused_at_the_submission(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(UserError, match=r"launcher\.setup has .* not valid in bash \(.+\)"):
        setup_lines(tmp_path, {}, lines)


def test_with_fail_fast_a_job_that_does_not_begin_stops_the_others(tmp_path: Path) -> None:
    stop = tmp_path / "a b.stopped"
    run(tmp_path, [], f"{BEGIN}; exit 3", stop)
    assert not stop.exists(), "whether a run that began stops the others is decided by its supervisor"
    run(tmp_path, ["false"], "true", stop)
    assert stop.exists()
