"""Tables of searches (`hydra/sweeper=optuna`): the trials from best to worst, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.render import MISSING
from analysis.sheet import Sheet, SheetBlock, SheetColumn, write_sheet
from htc.runs.files import read_object
from htc.runs.json_values import items, mapping, number, text
from htc.runs.pool import SEARCH_FILE, sweep_folder, sweep_names


@dataclass
class SearchTable:
    """A search that has trials."""

    sweep: str
    words: str
    """What is maximised, such as `mask AP`."""
    frame: pd.DataFrame
    """The trials from best to worst: `trial`, the settings, the objective in percent, `run`."""
    importances: dict[str, float]
    """Share of each setting in what decides the best trials; empty for too few trials."""

    @property
    def notes(self) -> list[str]:
        failed = int(self.frame[self.words].isna().sum())
        notes = [f"{len(self.frame)} trials, {failed} of which failed; the sweep is `{self.sweep}`."]
        if self.importances:
            shares = ", ".join(f"{key} {share:.2f}" for key, share in self.importances.items())
            notes.append(f"Importance of the settings for the best trials (PED-ANOVA, sum 1): {shares}.")
        return notes


def search_tables(root: Path, sweep: str = "") -> Iterator[SearchTable]:
    """Yield the searches below a folder of runs.

    Args:
        root: folder of runs.
        sweep: name of the only sweep that is shown; empty for all.
    """
    for name in sweep_names(root):
        try:
            content = read_object(sweep_folder(root, name) / SEARCH_FILE)
        except OSError:
            continue
        if sweep in ("", name) and (table := read_search(name, content)) is not None:
            yield table


def read_search(sweep: str, content: dict[str, Any]) -> SearchTable | None:
    """Return the search that a search.json holds; None where it has no trials."""
    words = text(content.get("words")) or "objective"
    settings = [each for each in items(content.get("settings")) if isinstance(each, str)]
    trials = [mapping(trial) for trial in items(content.get("trials"))]
    rows = []
    for trial in trials:
        params, value = mapping(trial.get("params")), number(trial.get("value"))
        of_settings = {key: params.get(key) for key in settings}
        rows.append(
            {
                "trial": trial.get("number"),
                **of_settings,
                words: math.nan if value is None else 100 * value,
                "run": text(trial.get("run")) or "",
            }
        )
    if not rows:
        return None
    frame = pd.DataFrame(rows).sort_values([words, "trial"], ascending=[False, True], na_position="last")
    shares = {
        key: float(share) for key, share in mapping(content.get("importances")).items() if number(share) is not None
    }
    return SearchTable(sweep, words, frame, shares)


def write_search_table(table: SearchTable, out: Path) -> str:
    """Write search_SWEEP.md, .tex and .csv below `out`, and return the Markdown.

    Raises UserError where the files cannot be written.
    """
    csv = str(table.frame.to_csv(index=False, lineterminator="\n"))
    return write_sheet(search_sheet(table), csv, out, ("md", "tex", "csv"))


def search_sheet(table: SearchTable) -> Sheet:
    """Return the table as text; a paper does not show the column of the runs."""
    header, *rows = cells(table)
    shown = [SheetColumn(each, "r" if each in ("trial", table.words) else "l", each != "run") for each in header]
    return Sheet(f"search_{table.sweep}", f"Search {table.sweep}", shown, [SheetBlock(rows)], table.notes, wide=False)


def cells(table: SearchTable) -> list[list[str]]:
    """Return the header and the rows as text."""
    frame = table.frame.map(_word)
    frame[table.words] = [MISSING if math.isnan(value) else f"{value:.2f}" for value in table.frame[table.words]]
    return [list(map(str, frame.columns)), *frame.to_numpy().tolist()]


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
