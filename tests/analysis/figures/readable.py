"""What a reader needs of any figure: words are inside of it, and cover neither each other nor the legend."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def assert_readable(figure: Figure) -> None:
    """Fail where words are cut off, or cover other words."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = Bbox.from_extents(-1, -1, figure.bbox.width + 1, figure.bbox.height + 1)
    words = [(each.get_text(), each.get_window_extent()) for each in texts(figure)]
    for text, box in words:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, f"{text!r} is cut off at a side"
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, f"{text!r} is cut off above or below"
    for (first, a), (second, b) in itertools.combinations(words, 2):
        shared = Bbox.intersection(a, b)
        assert shared is None or min(shared.width, shared.height) <= 2, f"{first!r} covers {second!r}"


def texts(figure: Figure) -> Iterator[Text]:
    """Yield titles, labels of axes and their visible ticks, and the words of legends."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for axis in figure.axes:
        found = [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label, *axis.texts]  # type: ignore[attr-defined]
        for side, (low, high) in ((axis.xaxis, sorted(axis.get_xlim())), (axis.yaxis, sorted(axis.get_ylim()))):
            found += [tick.label1 for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
        yield from (each for each in found if each.get_visible() and each.get_text() and each.get_in_layout())


def words_of(figure: Figure) -> str:
    """Return all words of a figure on one line."""
    return " ".join(" ".join(each.get_text().split()) for each in texts(figure))
