"""Keep the pool in order: rename and forget sweeps, delete checkpoints of done runs, delete runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from htc.config.checks import refuse_if
from htc.errors import UserError, nearest
from htc.launch.status.selection import select
from htc.launch.status.states import LIVE, RunState, run_states
from htc.launch.submission import read_submissions
from htc.runs.file_lock import locked
from htc.runs.pool import (
    SelectedRun,
    change_rows,
    is_run_name,
    launch_lock,
    read_rows,
    sweep_folder,
    sweep_names,
)

UNITS = ("bytes", "KB", "MB", "GB", "TB")


def rename(pool: Path, sweep: str, name: str) -> None:
    """Give a sweep another name; its runs stay as they are.

    Raises UserError for an unknown sweep, a name that is taken or not valid, and while jobs of the sweep are live.
    """
    refuse_if(not is_run_name(name), f"{name} cannot be the name of a sweep: leave out slashes and a dot at the start.")
    with _launch_locked(pool):
        _check_sweep(pool, sweep)
        refuse_if(name in sweep_names(pool), f"there is a sweep {name} already: choose another name.")
        _refuse_live_jobs(pool, sweep, "rename")
        sweep_folder(pool, sweep).rename(sweep_folder(pool, name))
    print(f"{sweep} is {name} now.")


def forget(pool: Path, words: Sequence[str]) -> None:
    """Remove sweeps, or rows of sweeps; their runs stay.

    Args:
        pool: Folder of all runs.
        words: `SWEEP` or `SWEEP/ROW`; ROW may be a pattern.

    Raises:
        UserError: A word names nothing, or jobs of the sweep are live, which read its folder.
    """
    with _launch_locked(pool):
        for word in words:
            sweep, slash, _ = word.rstrip("/").partition("/")
            _check_sweep(pool, sweep)
            if not slash:
                _refuse_live_jobs(pool, sweep, "forget")
                number = len(read_rows(pool, sweep))
                shutil.rmtree(sweep_folder(pool, sweep))
                print(f"forgot the sweep {sweep} with {number} rows; their runs stay in {pool}.")
                continue
            removed = select(pool, [word])
            change_rows(pool, sweep, lambda rows, removed=removed: [row for row in rows if row not in removed])  # type: ignore[misc]
            print(f"forgot {len(removed)} rows of {sweep}; their runs stay in {pool}.")


def clean(pool: Path, words: Sequence[str], *, everything: bool, confirmed: bool) -> None:
    """Delete checkpoints of done runs, after a confirmation.

    Args:
        pool: Folder of all runs.
        words: What names the runs.
        everything: Delete the newest checkpoint of a run, too. Without it, the run cannot be evaluated again.
        confirmed: Do not ask.

    Raises:
        UserError: The user has to confirm, and cannot be asked.
    """
    files = []
    runs = [state for state in _states(pool, words) if state.state in ("done", "trained")]
    for state in runs:
        found = sorted(path for path in (state.folder / "checkpoints").glob("step_*") if not path.is_symlink())
        newest = max((path.stem for path in found if path.suffix == ".pt"), default="")
        files += [path for path in found if everything or path.stem != newest]
    if not files:
        print("there are no checkpoints to delete.")
        return
    owners = len({path.parent for path in files})
    what = f"{len(files)} files of {owners} done runs, {readable(_size(files))}"
    if everything:
        what += "; these runs cannot be evaluated again"
    if not confirm(f"delete the checkpoints: {what}?", confirmed):
        return
    for path in files:
        path.unlink(missing_ok=True)
    print(f"deleted {what}.")


def delete(pool: Path, words: Sequence[str], *, confirmed: bool) -> None:
    """Delete whole runs, after a confirmation. Rows that select them are shown as missing.

    Args:
        pool: Folder of all runs.
        words: What names the runs.
        confirmed: Do not ask.

    Raises:
        UserError: A run is live, or the user has to confirm, and cannot be asked.
    """
    with _launch_locked(pool):
        states = [state for state in _states(pool, words) if state.folder.is_dir()]
        live = [state.name for state in states if state.state in (*LIVE, "unknown")]
        refuse_if(bool(live), f"{', '.join(live[:5])} may be under way: cancel it first.")
        files = [path for state in states for path in state.folder.rglob("*") if path.is_file()]
        what = f"{len(states)} runs, {readable(_size(files))}"
        if not states or not confirm(f"delete {', '.join(state.name for state in states[:5])}: {what}?", confirmed):
            return
        for state in states:
            if state.folder.is_symlink():
                state.folder.unlink()
            else:
                shutil.rmtree(state.folder)
        print(f"deleted {what}.")


def confirm(question: str, confirmed: bool) -> bool:
    """Ask on the terminal, and return whether the answer is yes. Raises UserError where nobody can be asked."""
    if confirmed:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Add --yes to confirm.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def readable(size: int) -> str:
    """Return a number of bytes such as `12.3 GB`."""
    value = float(size)
    for unit in UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {UNITS[-1]}"


def _states(pool: Path, words: Sequence[str]) -> list[RunState]:
    """Return the states of the named runs, each run once; a live state wins over others."""
    rows = [SelectedRun(name, evaluation=None) for name in dict.fromkeys(row.run for row in select(pool, words))]
    return run_states(pool, rows, need_slurm=True)[0]


def _size(files: Sequence[Path]) -> int:
    return sum(os.lstat(path).st_size for path in files)


def _check_sweep(pool: Path, sweep: str) -> None:
    names = sweep_names(pool)
    if sweep not in names:
        raise UserError(f"{sweep} is not a sweep of {pool}{nearest(sweep, names)}; there are {', '.join(names)}.")


def _refuse_live_jobs(pool: Path, sweep: str, action: str) -> None:
    """Raise UserError while a run is live that was submitted for the sweep: its job reads the sweep's folder."""
    runs = {run for submission in read_submissions(pool) if submission.sweep == sweep for run in submission.runs}
    states, _ = run_states(pool, [SelectedRun(run, evaluation=None) for run in runs], need_slurm=True)
    live = [state.name for state in states if state.is_live and state.submission and state.submission.sweep == sweep]
    if live:
        raise UserError(
            f"{len(live)} runs of {sweep} are under way, and their jobs read its folder: {action} it when they have "
            "ended, or cancel them."
        )


def _launch_locked(pool: Path) -> AbstractContextManager[None]:
    return locked(launch_lock(pool), f"{pool} is being launched into by another process: waiting.")
