"""Tables as text in blocks, and their Markdown, LaTeX (booktabs) and HTML: what all tables of sweeps share."""

from __future__ import annotations

import html as html_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.render import (
    Footnotes,
    escape,
    latex_figure,
    latex_footnotes,
    latex_line,
    latex_table,
    latex_title,
    pipes,
)
from htc.errors import UserError

FORMATS = ("md", "tex", "csv", "html")


@dataclass
class SheetColumn:
    """One column."""

    header: str
    align: str = "r"
    """`l`, `c` or `r`, as in LaTeX."""
    in_latex: bool = True
    """Whether a paper shows the column, too."""


@dataclass
class SheetBlock:
    """Rows below each other, with a title where a table has several blocks."""

    rows: list[list[str]]
    """[rows][columns]."""
    title: str = ""
    comments: list[str] = field(default_factory=list)
    """One per row, for the source text in LaTeX; or none at all."""
    sources: list[str] = field(default_factory=list)
    """Where published rows are from."""


@dataclass
class Sheet:
    """A table whose cells are text."""

    name: str
    """Name of its files, without the ending."""
    title: str
    columns: list[SheetColumn]
    blocks: list[SheetBlock]
    notes: list[str] = field(default_factory=list)
    """Sentences for the reader of the table."""
    footnotes: list[tuple[str, str]] = field(default_factory=list)
    """Marks and texts of what cells refer to."""
    remarks: list[str] = field(default_factory=list)
    """Sentences for its author: what is missing, and why."""
    wide: bool = True
    """Whether it takes both columns of a page."""

    @property
    def below(self) -> list[str]:
        """All sentences below the table."""
        return [*self.notes, *(f"From [{mark}]: {text}" for mark, text in self.footnotes), *self.remarks]


def write_sheet(sheet: Sheet, csv: str, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write the files of a table below `out`, and return the Markdown.

    Args:
        sheet: the table.
        csv: its numbers as CSV.
        out: folder of the tables.
        formats: endings of the files.

    Raises:
        UserError: where the files cannot be written.
    """
    texts = {"md": markdown(sheet), "tex": latex(sheet), "csv": csv, "html": html(sheet)}
    write_texts(out, {f"{sheet.name}.{ending}": texts[ending] for ending in formats})
    return texts["md"]


def write_texts(out: Path, texts: Mapping[str, str]) -> None:
    """Write files below `out` by name. Raises UserError where they cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            (out / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error


def markdown(sheet: Sheet) -> str:
    """Return a heading, a table in Markdown per block, and the sentences below."""
    header, right = [each.header for each in sheet.columns], [each.align == "r" for each in sheet.columns]
    parts = [f"## {sheet.title}", ""]
    for block in sheet.blocks:
        parts += [f"### {block.title}", ""] if block.title else []
        parts += [*pipes([header, *block.rows], right), ""]
    return "\n".join([*parts, *(f"- {each}" for each in sheet.below), ""])


def latex(sheet: Sheet) -> str:
    """Return the table in booktabs style, which the class `article` compiles; sources of blocks are footnotes."""
    shown = [index for index, each in enumerate(sheet.columns) if each.in_latex]
    sources = Footnotes(letters=False)
    body = []
    for block in sheet.blocks:
        body += latex_title(block.title, block.sources, len(shown), sources)
        comments = block.comments or [""] * len(block.rows)
        for row, comment in zip(block.rows, comments, strict=True):
            body.append(latex_line([latex_figure(row[index]) for index in shown], comment))
    return latex_table(
        sheet.name,
        sheet.title,
        "".join(sheet.columns[index].align for index in shown),
        [sheet.columns[index].header for index in shown],
        body,
        [*map(_note, sheet.notes), *latex_footnotes(sources)],
        sheet.remarks,
        sheet.wide,
    )


def _note(text: str) -> str:
    """Return a sentence that LaTeX does not read as the argument of the line break before it, as it would a star."""
    return f"{{}}{escape(text)}" if text.startswith(("*", "[")) else escape(text)


def html(sheet: Sheet) -> str:
    """Return the table as a fragment of HTML, with a body of the table per block."""
    escaped = html_module.escape
    header = "".join(f'<th scope="col">{escaped(each.header)}</th>' for each in sheet.columns)
    bodies = []
    for block in sheet.blocks:
        title = f'<tr><th colspan="{len(sheet.columns)}" scope="rowgroup">{escaped(block.title)}</th></tr>\n'
        rows = "".join("<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>\n" for row in block.rows)
        bodies.append(f"<tbody>\n{title if block.title else ''}{rows}</tbody>\n")
    below = "".join(f"<li>{escaped(each)}</li>\n" for each in sheet.below)
    return (
        f"<table>\n<caption>{escaped(sheet.title)}</caption>\n<thead><tr>{header}</tr></thead>\n{''.join(bodies)}"
        f"</table>\n<ul>\n{below}</ul>\n"
    )
