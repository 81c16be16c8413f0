"""Why a run failed, from its record and the ends of its logs."""

from __future__ import annotations

from pathlib import Path

from htc.launch.status.states import RunState, failed_slot

TAIL_BYTES = 20_000
"""Bytes at the end of a file in which its last lines are looked for."""


def error_lines(state: RunState, limit: int = 5) -> list[str]:
    """Return why a run failed: the recorded cause, and up to `limit` lines of its log if they show a Python error."""
    cause = state.record.error
    lines = [cause] if cause else []
    tail = last_lines(state.folder / "log.txt", limit)
    if cause and any("Traceback" in line or "Error" in line for line in tail):
        return [*lines, *(line for line in tail if line not in lines)]
    return lines or last_lines(job_log(state), limit) or tail or ["no reason was recorded"]


def job_log(state: RunState) -> Path:
    """Return the path of what the run's process printed; the file need not exist."""
    if state.submission is None:
        return state.folder / "log.txt"
    if state.submission.launcher == "slurm":
        slot = failed_slot(state.submission, state.name)
        job = state.job_id or (state.submission.jobs[slot] if slot is not None else None)
        return state.submission.path / f"{job}_0_log.err"
    return state.submission.path / f"{state.index}.log"


def last_lines(path: Path, limit: int) -> list[str]:
    """Return the last lines of a text file that are not empty; an empty list if the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-limit:]
