"""Tables of the effects in a sweep as Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
from collections.abc import Sequence
from pathlib import Path

from analysis.factorial import Effect, Factorial, gain
from analysis.render import MISSING, escape, pipes, signed
from analysis.study_render import FORMATS, interval, metric_words, p_value
from htc.errors import UserError

HEADER = ["kind", "of", "estimate", "on new images", "trained anew", "p"]
SIGNIFICANT = 0.05


def write_factorial(factorial: Factorial, out: Path, formats: Sequence[str] = FORMATS) -> str:
    """Write factorial_SWEEP.* below `out`, and return the Markdown.

    Raises UserError where the files cannot be written.
    """
    texts = {"md": markdown(factorial), "tex": latex(factorial), "csv": csv(factorial), "html": html(factorial)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending in formats:
            (out / f"factorial_{factorial.study.sweep}.{ending}").write_text(texts[ending], encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): name another folder.") from error
    return texts["md"]


def cells(effect: Effect) -> list[str]:
    """Return the cells of one effect."""
    found = effect.comparison
    mark = "*" if effect.p_value is not None and effect.p_value < SIGNIFICANT else ""
    return [
        effect.kind,
        effect.name,
        f"{found.difference:+.2f}".replace("-", "−") + mark,
        interval(found.on_images),
        MISSING if found.anew is None else interval(found.anew),
        MISSING if effect.p_value is None else p_value(effect.p_value),
    ]


def notes(factorial: Factorial) -> list[str]:
    """Return the sentences below the table."""
    rows = len([row for row in factorial.study.rows if row.resampled])
    found = [
        f"Effects on {metric_words(factorial.study.metric)} in percent, from {factorial.runs} runs of {rows} rows. A "
        "main effect is the mean difference over all combinations of the others; an interaction is half of the "
        "difference that another makes to it; the shares (Shapley values) do not depend on an order and sum up to the "
        f"difference between all and none, {signed(gain(factorial))}.",
        "95 % intervals: 'on new images' for these checkpoints; 'trained anew' also for other seeds, with one variance "
        "between seeds for all rows. p is adjusted for the number of effects of its kind (Holm); * marks p < 0.05.",
    ]
    if factorial.runs == rows:
        found.append("With one seed per row, the variance between seeds is unknown: add seeds, as in seed=0,1.")
    return found


def markdown(factorial: Factorial) -> str:
    """Return a heading, the table in Markdown, and the notes."""
    lines = pipes([HEADER, *map(cells, factorial.effects)], [False, False, True, True, True, True])
    below = [f"- {note}" for note in notes(factorial)]
    return "\n".join([f"## Effects in the sweep {factorial.study.sweep}", "", *lines, "", *below, ""])


def latex(factorial: Factorial) -> str:
    """Return the table in booktabs style, which the class `article` compiles."""
    rows = [" & ".join(escape(text) for text in cells(each)) for each in factorial.effects]
    lines = [
        r"% needs \usepackage{booktabs,amssymb}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        rf"\caption{{{escape(f'Effects in the sweep {factorial.study.sweep}')}}}",
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        " & ".join(map(escape, HEADER)) + r" \\",
        r"\midrule",
        *(f"{row} \\\\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}",
        r"\scriptsize",
        " \\\\\n".join(escape(note) for note in notes(factorial)),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def csv(factorial: Factorial) -> str:
    """Return the estimates and the bounds of their intervals."""
    header = ["kind", "of", "estimate", "images_low", "images_high", "anew_low", "anew_high", "p"]
    lines: list[list[object]] = [list(header)]
    for each in factorial.effects:
        found = each.comparison
        anew: list[object] = ["", ""] if found.anew is None else [found.anew.low, found.anew.high]
        p = "" if each.p_value is None else each.p_value
        lines.append([each.kind, each.name, found.difference, found.on_images.low, found.on_images.high, *anew, p])
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def html(factorial: Factorial) -> str:
    """Return the table as a fragment of HTML."""
    header = "".join(f'<th scope="col">{html_module.escape(each)}</th>' for each in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html_module.escape(text)}</td>" for text in cells(each)) + "</tr>\n"
        for each in factorial.effects
    )
    below = "".join(f"<li>{html_module.escape(note)}</li>\n" for note in notes(factorial))
    caption = html_module.escape(f"Effects in the sweep {factorial.study.sweep}")
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        f"<ul>\n{below}</ul>\n"
    )
