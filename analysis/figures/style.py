"""The look of all figures: widths of a paper's columns, fonts, and marks that differ in more than their color.

matplotlib is optional, and it is imported only when a figure is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {1: 3.3, 2: 6.9}
"""Width in inches of a figure over one column, and over both columns, of a two-column paper."""
FONT_SIZE = 8.0
DPI = 200
FORMATS = ("png", "pdf")
COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""The ten colors of matplotlib's `petroff10` (Petroff, arXiv 2107.02270), which color-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
BAND = 0.18
"""Opacity of the band over seeds."""
RC: dict[str, Any] = {
    "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE, "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE, "figure.titlesize": FONT_SIZE,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "savefig.dpi": DPI, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4,
    "grid.color": "#dddddd", "lines.linewidth": 1.2, "lines.markersize": 4, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False, "errorbar.capsize": 2,
    "axes.formatter.use_mathtext": True,
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
        mpl.rcParams.update(RC)
        yield


def panels(width: int, rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its axes, row by row. Call it within `paper_style`.

    Args:
        width: 1 for one column of a two-column paper, 2 for both.
        rows: number of rows of axes.
        columns: number of columns of axes.
        height: inches per row; the legend and the caption of an axis are part of it.
        options: of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    if width not in WIDTHS:
        raise UserError(f"width={width} must be 1 or 2: the columns of the paper that the figure spans.")
    figure = Figure(figsize=(WIDTHS[width], height * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr]
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend below the axes, with as many columns as fit, and enlarge the figure by its height."""
    width = figure.get_figwidth()
    wrapped = [wrap(label, width - 0.7) for label in labels]
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(
            handles, wrapped, loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=2.6
        )
        size = legend.get_window_extent()
        if size.width <= (width - 0.05) * figure.dpi or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)


def wrap(text: str, inches: float) -> str:
    """Return a text with line breaks, so that it fits into a width."""
    return textwrap.fill(text, max(int(inches * 72 / (FONT_SIZE * 0.55)), 6))


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in some formats, and return the files.

    Args:
        figure: the figure.
        path: the file without its ending; its folder is made.
        formats: endings, `png` or `pdf`.

    Raises:
        UserError: where a file cannot be written, or matplotlib is missing.
    """
    written = []
    with paper_style():
        for ending in formats:
            file = path.with_name(f"{path.name}.{ending}")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                # Without a date, the same runs give the same file.
                figure.savefig(file, dpi=DPI, metadata={"CreationDate": None} if ending == "pdf" else None)
            except OSError as error:
                raise UserError(f"{file} cannot be written ({error.strerror}): name another folder, out=.") from error
            written.append(file)
    return written
