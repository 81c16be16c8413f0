"""A table of texts as Markdown, LaTeX (booktabs) and HTML, with notes below."""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.render import escape, pipes
from analysis.statistics.intervals import Comparison
from htc.errors import UserError


@dataclass(frozen=True)
class Grid:
    """A table that is ready to be written."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    """Number of columns at the left that are text; the others are numbers."""
    notes: Sequence[str] = ()
    """Sentences for the reader of the table."""
    remarks: Sequence[str] = ()
    """Sentences for its author: what is missing, and what is not compared."""


def markdown(grid: Grid) -> str:
    """Return a heading, the table, and the notes and remarks as a list."""
    right = [index >= grid.left for index in range(len(grid.header))]
    lines = pipes([list(grid.header), *map(list, grid.rows)], right)
    below = [f"- {note}" for note in (*grid.notes, *grid.remarks)]
    return "\n".join([f"## {grid.title}", "", *lines, "", *below, ""])


def latex(grid: Grid) -> str:
    """Return a `table*` that the class `article` compiles; remarks are comments."""
    numbers = len(grid.header) - grid.left
    lines = [
        r"% needs \usepackage{booktabs,amssymb,graphicx}",
        *(f"% {' '.join(remark.split())}" for remark in grid.remarks),
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        rf"\caption{{{escape(grid.title)}}}",
        # A table is reduced only if it is wider than the page.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * grid.left}{'r' * numbers}}}",
        r"\toprule",
        " & ".join(map(escape, grid.header)) + r" \\",
        r"\midrule",
        *(_guarded(" & ".join(map(escape, row))) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}",
        r"\scriptsize",
        " \\\\\n".join(_guarded(escape(note)) for note in grid.notes),
        r"\end{minipage}",
        r"\end{table*}",
        "",
    ]
    return "\n".join(lines)


def _guarded(line: str) -> str:
    """Return a line that LaTeX does not read as arguments of the end of the line before: a star, or brackets."""
    return f"{{}}{line}" if line.startswith(("*", "[")) else line


def html(grid: Grid) -> str:
    """Return the table as a fragment of HTML; all text is escaped."""
    text = html_module.escape
    header = "".join(f'<th scope="col">{text(each)}</th>' for each in grid.header)
    body = "".join("<tr>" + "".join(f"<td>{text(each)}</td>" for each in row) + "</tr>\n" for row in grid.rows)
    below = "".join(f"<li>{text(note)}</li>\n" for note in (*grid.notes, *grid.remarks))
    return (
        f"<table>\n<caption>{text(grid.title)}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        f"</table>\n<ul>\n{below}</ul>\n"
    )


def write_texts(texts: Mapping[str, str], out: Path, name: str, formats: Sequence[str]) -> None:
    """Write NAME.ENDING below `out` for each ending of `formats`. Raises UserError where a file cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending in formats:
            (out / f"{name}.{ending}").write_text(texts[ending], encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error


def csv_text(lines: Sequence[Sequence[object]]) -> str:
    """Return lines of values as CSV."""
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


BOUNDS = ("images_low", "images_high", "anew_low", "anew_high")
"""Names of what `bounds` returns."""


def bounds(found: Comparison | None) -> list[object]:
    """Return the bounds of the intervals of a difference, empty where there are none."""
    values: list[object] = []
    for each in (found.on_images, found.anew) if found else (None, None):
        values += ["", ""] if each is None else [each.low, each.high]
    return values
