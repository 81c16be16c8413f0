"""The look of all figures: widths of a paper's columns, fonts, and marks that differ in more than their color.

matplotlib is optional, and it is imported only when a figure is drawn.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {1: 3.3, 2: 6.9}
"""Width in inches of a figure over one column, and over both columns, of a two-column paper."""
FONT_SIZE = 8.0
DPI = 200
COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""The ten colors of matplotlib's `petroff10` (Petroff, arXiv 2107.02270), which color-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
BAND = 0.18
"""Opacity of the band over seeds."""
NAMED = 12
"""Most variants that a figure names; of more, the others are drawn in grey."""
OTHERS = "#b4b7bd"
"""Color of the variants that are not named."""
DARK = "#2b2d33"
"""Almost black, for what lies on a colored area; black itself becomes the color of the text in a page, see `svg`."""
LONGEST = 240
"""Characters of a label; of longer ones, the middle is left out."""
TALLEST = 60.0
"""Largest height of a figure in inches: more pixels than that take all memory."""
RC: dict[str, Any] = {
    "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE, "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE, "figure.titlesize": FONT_SIZE,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "savefig.dpi": DPI, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4,
    "grid.color": "#000000", "grid.alpha": 0.14, "lines.linewidth": 1.2, "lines.markersize": 4, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False, "errorbar.capsize": 2,
    "hatch.linewidth": 0.6, "svg.hashsalt": "htc", "axes.unicode_minus": True,
}  # fmt: skip
"""Text stays text in a PDF with fonts of type 42."""


@dataclass(frozen=True)
class Mark:
    """How one variant looks in every figure: the first 36 differ in marker or line, also without color."""

    color: str
    marker: str
    line: Any


def mark(index: int) -> Mark:
    """Return the look of the variant at an index."""
    return Mark(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)])


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw, or write, figures in this style; nothing is left changed. Raises UserError where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError(
            f"figures need matplotlib, which cannot be imported ({error}): pip install 'htc[figures]', or matplotlib."
        ) from None
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, RC))
        yield


def panels(
    width: int, rows: int, columns: int, height: float, layout: str = "constrained", **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its axes, row by row. Call it within `paper_style`.

    Args:
        width: 1 for one column of a two-column paper, 2 for both.
        rows: number of rows of axes.
        columns: number of columns of axes.
        height: inches per row; the legend and the caption of an axis are part of it.
        layout: `compressed` for images, whose sides have a fixed ratio.
        options: of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    if width not in WIDTHS:
        raise UserError(f"width={width} must be 1 or 2: the columns of the paper that the figure spans.")
    figure = Figure(figsize=(WIDTHS[width], height * rows), layout=layout)  # type: ignore[arg-type]
    cast(Any, figure.get_layout_engine()).set(w_pad=0.03, h_pad=0.03)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def looks(labels: Sequence[str], named: Iterable[str]) -> dict[str, Mark]:
    """Return how each variant looks; those that are not named are grey, and have no marks.

    Args:
        labels: all variants in their order.
        named: those that the legend names.
    """
    shown = set(named)
    order = [label for label in labels if label in shown] if len(labels) > NAMED else list(labels)
    found = {label: mark(index) for index, label in enumerate(order) if label in shown}
    return {label: found.get(label, Mark(OTHERS, "", "-")) for label in labels}


def best(values: dict[str, float], labels: Sequence[str]) -> list[str]:
    """Return the labels that a figure names, in their order: all of a few, and of many those with the highest values.

    Args:
        values: value of each variant; variants without one come last.
        labels: all variants in their order.
    """
    if len(labels) <= NAMED:
        return list(labels)
    ranked = sorted(range(len(labels)), key=lambda index: -values.get(labels[index], -1e9))
    return [labels[index] for index in sorted(ranked[:NAMED])]


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], others: int = 0) -> None:
    """Add a legend below the axes, with as many columns as fit, and enlarge the figure by its height.

    Args:
        figure: a figure of `panels`.
        handles: artists or lines, one per label.
        labels: the words, as they are; they are made safe here.
        others: number of variants that are drawn in grey without a name.
    """
    from matplotlib.lines import Line2D

    width = figure.get_figwidth()
    wrapped = [wrap(label, width - 0.7) for label in labels]
    if others:
        handles = [*handles, Line2D([], [], color=OTHERS, linewidth=1.2)]
        wrapped.append(f"{others} other{'s' * (others > 1)}")
    if not wrapped:
        return
    # A symbol, its distance to the words, and the distance between columns, in inches.
    symbol = (2.6 + 0.8 + 1.2) * FONT_SIZE / 72
    widths = [max(map(text_width, words.split("\n"))) for words in wrapped]
    columns = max(
        (number for number in range(1, len(wrapped) + 1) if _legend_width(widths, number) + number * symbol < width),
        default=1,
    )
    # Placeholders, because matplotlib leaves out labels that begin with an underscore.
    legend = figure.legend(
        handles, ["-"] * len(wrapped), loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=2.6
    )
    for drawn, words in zip(legend.get_texts(), wrapped, strict=True):
        drawn.set_text(words)
    size = legend.get_window_extent()
    figure.set_figheight(min(figure.get_figheight() + size.height / figure.dpi, TALLEST))


def _legend_width(widths: Sequence[float], columns: int) -> float:
    """Return the width in inches of the words of a legend, which fills its columns from top to bottom."""
    rows, longer = divmod(len(widths), columns)
    sizes = [rows + 1] * longer + [rows] * (columns - longer)
    total, start = 0.0, 0
    for size in sizes:
        total += max(widths[start : start + size], default=0.0)
        start += size
    return total


def plain(words: str) -> str:
    """Return words that matplotlib draws as they are: one line, characters that the font has, and no formulas.

    Control characters become spaces, and other characters that the font lacks the replacement character. Of very long
    words, the middle is left out.
    """
    font, _ = _font()
    kept = "".join(" " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in words)
    kept = "".join(
        each if font.get_char_index(ord(each)) else "\ufffd"
        for each in kept
        if unicodedata.category(each) not in ("Cf", "Mn", "Cs")
    )
    kept = re.sub(r"\s+", " ", kept).strip()
    if len(kept) > LONGEST:
        kept = f"{kept[: LONGEST // 2]} … {kept[-LONGEST // 2 :]}"
    return kept.replace("$", r"\$") or "–"


def wrap(words: str, inches: float) -> str:
    """Return words as `plain` does, with line breaks, so that they fit into a width in inches."""
    lines, line = [], ""
    for word in re.findall(r"\S+", plain(words)):
        if line and text_width(f"{line} {word}") <= inches:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        line = ""
        # Escaped dollar signs stay whole.
        for each in re.findall(r"\\\$|.", word):
            if line and text_width(line + each) > inches:
                lines.append(line)
                line = ""
            line += each
    return "\n".join([*lines, line] if line or not lines else lines)


def text_width(words: str) -> float:
    """Return the width in inches of one line of words in the size of all figures."""
    _, advance = _font()
    return sum(map(advance, words.replace(r"\$", "$"))) / 72


@cache
def _font() -> tuple[Any, Any]:
    """Return the font of the figures, and a function for the width of a character in points."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))

    @cache
    def advance(character: str) -> float:
        font.set_size(FONT_SIZE, 72)
        return float(font.load_char(ord(character)).linearHoriAdvance) / 65536

    return font, advance
