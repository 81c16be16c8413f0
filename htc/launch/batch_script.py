"""Lines of a batch script: the user's setup, whose failure ends the job, and a record of jobs that never began."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from htc.errors import UserError

SCRIPT = """\
htc_job={folder}/${{SLURM_ARRAY_TASK_ID:-0}}
rm -f "$htc_job.failed"
touch "$htc_job.begins"
htc_end() {{
    htc_status=$?
    # 143: the job is cancelled or preempted. The run removes the file when it begins.
    if [ $htc_status -ne 0 ] && [ $htc_status -ne 143 ] && mv "$htc_job.begins" "$htc_job.failed" 2>/dev/null; then
        {on_failure}
    fi
}}
trap htc_end EXIT"""
CHECK = """\
htc_status=$?
if [ $htc_status -ne 0 ]; then
    echo {message} "(status $htc_status)" >&2
    exit $htc_status
fi"""
AFTER_SETUP = """\
export {variables}
# Since Slurm 22.05, srun does not read the number of CPUs per task of the job.
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
# After sbatch --export=NONE, srun would not pass these variables on.
unset SLURM_EXPORT_ENV"""
TEARDOWN = ("exit $?",)
"""Lines that a job runs last: it ends as its Python process did."""


def setup_lines(
    folder: Path, variables: Mapping[str, str], commands: Sequence[str], stop_file: Path | None = None
) -> list[str]:
    """Return the lines that a job runs before its Python process.

    Args:
        folder: Folder of the submission. A job that fails before its run begins leaves the file `<index>.failed` there
            until it starts again.
        variables: Environment variables of the process.
        commands: The user's lines of bash. The job ends where a command of them fails.
        stop_file: File that a job which fails before its run begins creates, to stop the other jobs; None: no file.

    Raises:
        UserError: The commands are not valid in bash.
    """
    on_failure = ":"
    if stop_file is not None:
        on_failure = f'touch {shlex.quote(str(stop_file))}; scancel --state=PENDING "$SLURM_ARRAY_JOB_ID"'
    lines = [SCRIPT.format(folder=shlex.quote(str(folder)), on_failure=on_failure)]
    for command in complete_commands(commands):
        lines += [command, CHECK.format(message=shlex.quote(f"launcher.setup: {command}: failed"))]
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return [*lines, AFTER_SETUP.format(variables=exported)]


def complete_commands(lines: Sequence[str]) -> list[str]:
    """Join lines of bash to commands that are complete on their own, such as a loop over several lines.

    Raises UserError if the lines are not valid.
    """
    commands: list[str] = []
    unfinished: list[str] = []
    message = ""
    for line in lines:
        unfinished.append(line)
        if not (message := _syntax_error("\n".join(unfinished))):
            commands.append("\n".join(unfinished))
            unfinished = []
    if unfinished:
        raise UserError(f"launcher.setup has {unfinished[0]!r}, which is not valid in bash ({message}).")
    return commands


def _syntax_error(text: str) -> str:
    """Return what bash says about the syntax of a text; nothing if it is valid."""
    lines = text.splitlines()
    # bash -n accepts a here-document without its end. A shift in an arithmetic expression looks like one.
    for delimiter in re.findall(r"<<-?\s*['\"]?([A-Za-z]\w*)", text) if "((" not in text else ():
        if not any(line.strip() == delimiter for line in lines[1:]):
            return f"{delimiter} is missing at the end of the here-document"
    answer = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if answer.returncode == 0:
        return ""
    return (answer.stderr.strip().splitlines() or ["-c: syntax error"])[0].partition("-c: ")[2]
