"""Tables of sweeps as Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
from collections.abc import Sequence
from pathlib import Path

from analysis.render import MISSING, escape, figure, pipes, signed
from analysis.statistics.intervals import Interval
from analysis.study import Study, StudyRow
from htc.errors import UserError

FORMATS = ("md", "tex", "csv", "html")
COLUMNS = {
    "label": "row", "n": "n", "box_AP": "box AP", "mask_AP": "mask AP", "mask_AP50": "AP50", "mask_AP75": "AP75",
    "mask_APs": "APs", "mask_APm": "APm", "mask_APl": "APl",
    "boundary_AP": "boundary AP",
    "fps": "fps", "delta": "Δ", "images": "on new images", "anew": "trained anew", "p": "p",
}  # fmt: skip
"""Headers of the columns."""
OF_COMPARISON = ("images", "anew", "p")
"""Columns that a table without intervals leaves out."""
OPTIONAL = ("fps", "boundary_AP")
"""Columns that a table leaves out where no row has a value."""
METRIC_WORDS = {"bbox": "box", "segm": "mask", "boundary": "boundary"}


def write_study(study: Study, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write study_SWEEP.* below `out`, and return the Markdown. Raises UserError where the files cannot be written."""
    texts = {"md": markdown(study), "tex": latex(study), "csv": csv(study), "html": html(study)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending in formats:
            (out / f"study_{study.sweep}.{ending}").write_text(texts[ending], encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error
    return texts["md"]


def columns(study: Study) -> list[str]:
    """Return the columns that have something to show."""
    known = {key for row in study.rows for key in row.stats}
    compared = any(row.comparison is not None for row in study.rows)
    shown = [key for key in COLUMNS if compared or key not in OF_COMPARISON]
    return [key for key in shown if key in known or key not in OPTIONAL]


def cell(study: Study, row: StudyRow, key: str) -> str:
    """Return the text of one cell."""
    comparison = row.comparison
    if key == "label":
        return row.label
    if key == "n":
        return str(len(row.runs)) if row.runs else MISSING
    if key == "delta":
        mark = "*" if row.is_significant else ""
        return "base" if row.label == study.base else signed(row.delta) + mark
    if key == "images":
        return MISSING if comparison is None else interval(comparison.on_images)
    if key == "anew":
        return MISSING if comparison is None or comparison.anew is None else interval(comparison.anew)
    if key == "p":
        return MISSING if row.p_value is None else p_value(row.p_value)
    return figure(row.stats.get(key))


def interval(found: Interval) -> str:
    """Return `[+0.2, +1.1]`."""
    return f"[{signed(found.low)}, {signed(found.high)}]"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def metric_words(metric: str) -> str:
    """Return `mask AP` for `segm.AP`."""
    section, name = metric.split(".")
    return f"{METRIC_WORDS[section]} {name}"


def notes(study: Study) -> list[str]:
    """Return the sentences below the table."""
    found = [
        f"Mean ± sample standard deviation over n seeds, in percent; AP50 to APl are mask APs. Δ: difference in "
        f"{metric_words(study.metric)} to the row '{study.base}'."
    ]
    if any(row.comparison is not None for row in study.rows):
        found.append(
            "95 % intervals of Δ: 'on new images' holds for these checkpoints (paired bootstrap over images); "
            "'trained anew' also for other seeds (variance components, Satterthwaite). p belongs to the latter, "
            "adjusted for the number of rows (Holm); * marks p < 0.05."
        )
    return [*found, *([study.power] if study.power else [])]


def remarks(study: Study) -> list[str]:
    """Return the sentences for the author: rows that are not complete, and what is not averaged or compared."""
    unfinished = [f"'{row.label}': {each}." for row in study.rows for each in row.unfinished]
    # Two rows may be one run.
    return list(dict.fromkeys([*study.remarks, *unfinished]))


def cells(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return the keys of the columns, and the rows as text."""
    keys = columns(study)
    return keys, [[cell(study, row, key) for key in keys] for row in study.rows]


def markdown(study: Study) -> str:
    """Return a heading, the table in Markdown, and the notes."""
    keys, rows = cells(study)
    lines = pipes([[COLUMNS[key] for key in keys], *rows], [key != "label" for key in keys])
    below = [f"- {note}" for note in (*notes(study), *remarks(study))]
    return "\n".join([f"## Sweep {study.sweep}", "", *lines, "", *below, ""])


def latex(study: Study) -> str:
    """Return the table in booktabs style, which the class `article` compiles."""
    keys, rows = cells(study)
    lines = [
        r"% needs \usepackage{booktabs,amssymb,graphicx}",
        *(f"% {' '.join(remark.split())}" for remark in remarks(study)),
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        rf"\caption{{{escape(f'Sweep {study.sweep}')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(keys) - 1)}}}",
        r"\toprule",
        " & ".join(escape(COLUMNS[key]) for key in keys) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}",
        r"\scriptsize",
        " \\\\\n".join(map(escape, notes(study))),
        r"\end{minipage}",
        r"\end{table*}",
        "",
    ]
    return "\n".join(lines)


def csv(study: Study) -> str:
    """Return the numbers: mean, deviation and n of each metric, and the bounds of the intervals."""
    keys = [key for key in columns(study) if key not in ("label", "n", "delta", *OF_COMPARISON)]
    header = ["row", "n", *(f"{key}{end}" for key in keys for end in ("", "_std", "_n")), "delta"]
    header += ["images_low", "images_high", "anew_low", "anew_high", "p", "runs"]
    lines: list[list[object]] = [list(header)]
    for row in study.rows:
        values: list[object] = [row.label, len(row.runs)]
        for key in keys:
            stat = row.stats.get(key)
            values += ["", "", ""] if stat is None else [stat.mean, "" if stat.std is None else stat.std, stat.n]
        comparison = row.comparison
        values.append("" if row.delta is None else row.delta)
        for found in (comparison.on_images, comparison.anew) if comparison is not None else (None, None):
            values += ["", ""] if found is None else [found.low, found.high]
        values += ["" if row.p_value is None else row.p_value, " ".join(run.folder for run in row.runs)]
        lines.append(values)
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def html(study: Study) -> str:
    """Return the table as a fragment of HTML."""
    keys, rows = cells(study)
    header = "".join(f'<th scope="col">{html_module.escape(COLUMNS[key])}</th>' for key in keys)
    body = "".join("<tr>" + "".join(f"<td>{html_module.escape(text)}</td>" for text in row) + "</tr>\n" for row in rows)
    below = "".join(f"<li>{html_module.escape(note)}</li>\n" for note in (*notes(study), *remarks(study)))
    caption = html_module.escape(f"Sweep {study.sweep}")
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        f"<ul>\n{below}</ul>\n"
    )
