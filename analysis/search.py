"""Tables of searches (`hydra/sweeper=optuna`): the trials from best to worst, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.render import MISSING, escape, pipes
from htc.errors import UserError
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
    shown = markdown(table)
    path = out / f"search_{table.sweep}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.md").write_text(shown, encoding="utf-8")
        path.with_name(f"{path.name}.tex").write_text(latex(table), encoding="utf-8")
        table.frame.to_csv(path.with_name(f"{path.name}.csv"), index=False)
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error
    return shown


def cells(table: SearchTable) -> list[list[str]]:
    """Return the header and the rows as text."""
    frame = table.frame.map(_word)
    frame[table.words] = [MISSING if math.isnan(value) else f"{value:.2f}" for value in table.frame[table.words]]
    return [list(map(str, frame.columns)), *frame.to_numpy().tolist()]


def markdown(table: SearchTable) -> str:
    """Return a heading, the table in Markdown, and the notes."""
    right = [key in ("trial", table.words) for key in table.frame.columns]
    lines = pipes(cells(table), right)
    return "\n".join([f"## Search {table.sweep}", "", *lines, "", *(f"- {note}" for note in table.notes), ""])


def latex(table: SearchTable) -> str:
    """Return the table in booktabs style, without the column of the runs."""
    header, *rows = [line[:-1] for line in cells(table)]
    lines = [
        r"% needs \usepackage{booktabs,amssymb}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        rf"\caption{{{escape(f'Search {table.sweep}')}}}",
        rf"\begin{{tabular}}{{{'r' + 'l' * (len(header) - 2) + 'r'}}}",
        r"\toprule",
        " & ".join(map(escape, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"\scriptsize",
        *(escape(note) + r" \\" for note in table.notes),
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
