"""Which runs the words of a command name: a sweep, rows of it, or runs of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from htc.errors import UserError, nearest
from htc.runs.pool import SelectedRun, all_rows, read_rows, run_names, sweep_names

PATTERN_CHARACTERS = "*?["


def select(pool: Path, words: Sequence[str]) -> list[SelectedRun]:
    """Return the runs that words name, each once per evaluation that is asked for; all runs for no words.

    A word is the name of a sweep, `SWEEP/ROW` or `RUN`. ROW is a label or a run; labels and runs may be patterns such
    as `*mask_flow*`, and runs may be shortened to their beginning or to their signature. Raises UserError for a word
    that names nothing.
    """
    named = [row for word in words for row in _named(pool, word)]
    chosen = named if words else [row for _, row in all_rows(pool)]
    return list({(row.run, row.evaluation, row.label): row for row in chosen}.values())


def _named(pool: Path, word: str) -> list[SelectedRun]:
    word = word.rstrip("/")
    sweeps = sweep_names(pool)
    if word in sweeps:
        return read_rows(pool, word)
    sweep, slash, name = word.partition("/")
    if slash and sweep in sweeps:
        rows = read_rows(pool, sweep)
        found = [row for row in rows if row.label == name] or _matching(name, rows, lambda row: (row.run, row.label))
        if not found:
            known = [text for row in rows for text in (row.run, row.label) if text]
            raise UserError(f"{name} is neither a label nor a run of the sweep {sweep}{nearest(name, known)}.")
        return found
    rows = [SelectedRun(run, evaluation=None) for run in sorted(run_names(pool))]
    # A path such as runs/NAME-SIGNATURE names a run, too.
    found = _matching(Path(word).name if Path(word).parent == pool else word, rows, lambda row: (row.run,))
    if not found:
        known = [*sweeps, *(row.run for row in rows)]
        listed = f"the sweeps are {', '.join(sweeps)}" if sweeps else "there are no sweeps"
        raise UserError(f"{word} is neither a sweep nor a run below {pool}{nearest(word, known)}; {listed}.")
    return found


def _matching(
    name: str, rows: Sequence[SelectedRun], texts: Callable[[SelectedRun], Sequence[str | None]]
) -> list[SelectedRun]:
    """Return the rows with a text that is the name; else those that match it as a pattern, beginning or signature."""
    if exact := [row for row in rows if name in texts(row)]:
        return exact
    if any(character in name for character in PATTERN_CHARACTERS):
        return [row for row in rows if any(text is not None and fnmatchcase(text, name) for text in texts(row))]
    return [row for row in rows if row.run.startswith(name) or row.run.endswith(f"-{name}")]
