"""Tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase

import pandas as pd

from analysis.runs import METRICS
from analysis.table_rows import ADDED_SWITCHES, IDEAS, Row, Stat
from analysis.tables import Block, Table
from htc.errors import UserError

MISSING = "—"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "×": r"$\times$", "α": r"$\alpha$", "β": r"$\beta$", "|": r"\textbar{}", "°": r"$^\circ$",
    "✓": r"$\checkmark$", "Δ": r"$\Delta$", "−": "$-$", "—": "---", "–": "--",
}  # fmt: skip


class Footnotes:
    """Footnotes of one table, marked by letters or numbers in order of first use; equal texts share one mark."""

    def __init__(self, letters: bool) -> None:
        self.letters = letters
        self.texts: list[str] = []

    def add(self, text: str) -> str:
        """Add a footnote unless it exists, and return its mark."""
        if text not in self.texts:
            self.texts.append(text)
        return self._mark(self.texts.index(text))

    def marked_texts(self) -> list[tuple[str, str]]:
        """Return the marks and texts of all footnotes."""
        return [(self._mark(index), text) for index, text in enumerate(self.texts)]

    def _mark(self, index: int) -> str:
        if not self.letters:
            return str(index + 1)
        letter = ascii_lowercase[index % 26]
        return letter if index < 26 else f"{letter}{index // 26}"


def write_table(table: Table, out: Path) -> str:
    """Write NAME.md, NAME.tex and NAME.csv below `out`, and return the Markdown.

    Raises UserError where the files cannot be written.
    """
    text = markdown(table)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending, content in (("md", text), ("tex", latex(table)), ("csv", csv(table))):
            (out / f"{table.name}.{ending}").write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error
    return text


def cell(row: Row, key: str) -> str:
    """Return the text of one cell, without footnote marks."""
    if key in row.switches:
        return "✓" if row.switches[key] else "–"
    if key in METRICS or key == "fps":
        return figure(row.stats.get(key))
    if key == "delta":
        return "base" if row.is_base else signed(row.delta)
    if key == "fusion" and not row.switches["semantic"]:
        return "–"
    value = getattr(row, key)
    return MISSING if value in ("", None) else str(value)


def figure(stat: Stat | None) -> str:
    """Return `36.9 ± 0.2`, or `36.9` for a single value; a dash for None."""
    if stat is None:
        return MISSING
    return f"{stat.mean:.1f}" if stat.std is None else f"{stat.mean:.1f} ± {stat.std:.1f}"


def signed(value: float | None) -> str:
    """Return `+0.6`, `−0.3` or `0.0`; a dash for None."""
    if value is None:
        return MISSING
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def markdown(table: Table) -> str:
    """Return a heading, one Markdown table per block, and the notes.

    Letters mark the conditions of an fps figure, and numbers the runs or the source of a row.
    """
    conditions, origins = Footnotes(letters=True), Footnotes(letters=False)
    parts = [f"## {table.caption.rstrip('.')}", ""]
    for block in table.blocks:
        lines = [list(table.columns.values())]
        for row in block.rows:
            cells = []
            for key in table.columns:
                if key == "from":
                    origin = f"{row.source}." if block.published else ", ".join(f"`{name}`" for name in row.runs)
                    cells.append(f"{'published ' if block.published else ''}[{origins.add(origin)}]")
                elif key == "fps" and row.fps_conditions:
                    cells.append(f"{cell(row, key)} [{conditions.add(row.fps_conditions)}]")
                else:
                    cells.append(cell(row, key))
            lines.append(cells)
        parts += [f"### {block.title}", "", *pipes(lines, [_is_figure(key) for key in table.columns]), ""]
    notes = table.notes + [f"fps [{mark}]: {text}." for mark, text in conditions.marked_texts()]
    notes += [f"From [{mark}]: {text}" for mark, text in origins.marked_texts()] + table.remarks
    return "\n".join([*parts, *(f"- {note}" for note in notes), ""])


def pipes(lines: list[list[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a Markdown table; columns of figures, where `right` is true, are aligned to the right."""
    lines = [[text.replace("|", r"\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "| " + " | ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(line, widths, right, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True)) + "|"
    return [padded[0], rule, *padded[1:]]


def _is_figure(key: str) -> bool:
    """Return whether the column holds numbers."""
    return key in METRICS or key in ("fps", "delta", "seeds", "stages")


def latex(table: Table) -> str:
    """Return a `table*` in booktabs style; a comment after each own row names its runs."""
    conditions, sources = Footnotes(letters=True), Footnotes(letters=False)
    keys = [key for key in table.columns if key not in ("data", "split", "from")]
    body = []
    for block in table.blocks:
        body += latex_title(block.title, [row.source for row in block.rows if row.source], len(keys), sources)
        body += [_latex_row(row, keys, block, conditions) for row in block.rows]
    return latex_table(
        table.name,
        table.caption,
        "".join(_alignment(key) for key in keys),
        [table.columns[key] for key in keys],
        body,
        [escape(note) for note in table.notes] + latex_footnotes(conditions) + latex_footnotes(sources),
        table.remarks,
    )


def latex_table(
    name: str,
    caption: str,
    alignment: str,
    header: Sequence[str],
    body: Sequence[str],
    notes: Sequence[str],
    remarks: Sequence[str] = (),
    wide: bool = True,
) -> str:
    """Return a table in booktabs style, which the class `article` compiles.

    Args:
        name: end of its label.
        caption: its caption.
        alignment: a letter per column.
        header: headers of the columns.
        body: lines between the header and the end, in LaTeX.
        notes: sentences below the table, in LaTeX.
        remarks: sentences that only the source text has.
        wide: whether it takes both columns of a page.
    """
    environment = "table*" if wide else "table"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,amssymb,graphicx}",
            *(f"% {_one_line(remark)}" for remark in remarks),
            rf"\begin{{{environment}}}",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', name)}}}",
            # Shrink a table only if it is wider than the page.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            " & ".join(map(_latex_header, header)) + r" \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}",
            r"\scriptsize",
            " \\\\\n".join(notes),
            r"\end{minipage}",
            rf"\end{{{environment}}}",
            "",
        ]
    )


def latex_title(title: str, sources: Sequence[str], columns: int, footnotes: Footnotes) -> list[str]:
    """Return the lines that begin a block, with marks for its published sources: no column of a paper has these."""
    marks = ",".join(dict.fromkeys(footnotes.add(f"Source: {source}") for source in sources))
    text = rf"\textit{{{escape(title)}}}" + (rf"\textsuperscript{{{marks}}}" if marks else "")
    return [r"\midrule", *([rf"\multicolumn{{{columns}}}{{l}}{{{text}}} \\"] if title else [])]


def latex_line(cells: Sequence[str], comment: str = "") -> str:
    """Return a row of cells in LaTeX, and a comment that only the source text has."""
    # Brackets or a star after the end of a row would be read as its arguments.
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return guard + " & ".join(cells) + r" \\" + (f" % {_one_line(comment)}" if comment else "")


def latex_footnotes(footnotes: Footnotes) -> list[str]:
    """Return the footnotes of a table in LaTeX."""
    return [rf"\textsuperscript{{{mark}}}~{escape(text.rstrip('.'))}." for mark, text in footnotes.marked_texts()]


def latex_figure(text: str) -> str:
    """Return a cell; the spread of `36.9 ± 0.2` is set in small type, as tables have a dozen columns."""
    return re.sub(r"^(\S+) \$\\pm\$ (\S+)$", r"\1\\,{\\scriptsize$\\pm$\2}", escape(text))


def _latex_row(row: Row, keys: list[str], block: Block, conditions: Footnotes) -> str:
    cells = []
    for key in keys:
        text = latex_figure(cell(row, key))
        if key == "fps" and row.fps_conditions:
            text += rf"\textsuperscript{{{conditions.add(row.fps_conditions)}}}"
        cells.append(text)
    return latex_line(cells, "" if block.published else f"runs: {', '.join(row.runs)}")


def _latex_header(header: str) -> str:
    if match := re.fullmatch(r"AP(\w+)", header):
        return rf"AP\textsubscript{{{match[1]}}}"
    return escape(header)


def _alignment(key: str) -> str:
    if key == "cascade" or key in IDEAS or key in ADDED_SWITCHES:
        return "c"
    return "r" if _is_figure(key) else "l"


def escape(text: str) -> str:
    """Return the text escaped for LaTeX; parts between backticks become typewriter."""
    parts = ["".join(LATEX.get(letter, letter) for letter in part) for part in text.split("`")]
    return "".join(rf"\texttt{{{part}}}" if index % 2 else part for index, part in enumerate(parts))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def csv(table: Table) -> str:
    """Return the figures as CSV: mean, std and n in a column each (AP in percent), and the origin of each row."""
    lines = []
    for block in table.blocks:
        for row in block.rows:
            line: dict[str, object] = {"origin": "published" if block.published else "own", "block": block.title}
            for key in ("method", "backbone", "data", "split", "schedule"):
                line[key] = getattr(row, key) or None
            line |= {key: int(on) for key, on in row.switches.items()}
            line |= {"fusion": row.fusion or None, "stages": row.stages}
            for key in [*METRICS, "fps"]:
                stat = row.stats.get(key)
                line[f"{key}_mean"] = round(stat.mean, 6) if stat else None
                line[f"{key}_std"] = round(stat.std, 6) if stat and stat.std is not None else None
                line[f"{key}_n"] = stat.n if stat and not block.published else None
            if "delta" in table.columns:
                line["mask_AP_delta"] = round(row.delta, 6) if row.delta is not None else None
                line["is_base"] = int(row.is_base)
            line |= {"fps_conditions": row.fps_conditions or None, "seeds": row.seeds}
            line["source"] = row.source or "; ".join(row.runs)
            lines.append(line)
    frame = pd.DataFrame(lines).convert_dtypes()
    return str(frame.to_csv(index=False, lineterminator="\n"))
