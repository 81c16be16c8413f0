"""Labels of any kind, marks that differ, and legends that fit."""

from __future__ import annotations

import warnings

import pytest
from matplotlib.lines import Line2D

from analysis.figures.style import (
    NAMED,
    OTHERS,
    WIDTHS,
    add_legend,
    best,
    looks,
    mark,
    panels,
    paper_style,
    plain,
    text_width,
    wrap,
)
from htc.errors import UserError
from tests.analysis.figures.readable import assert_readable, texts

HOSTILE = [
    "$x$", r"$\frac{1}{2$ cost 5 $", "_private", "<b>bold</b> & co", "very_long_" * 12, "emoji 😀 中文",
    "tab\tline\nnul\0", "", r"\$5", "%s {x} \\alpha^2", "\u202ereversed", "W" * 400,
]  # fmt: skip


def test_words_are_drawn_as_they_are() -> None:
    assert plain("$x$") == r"\$x\$"
    assert plain("_a <b>") == "_a <b>"
    assert plain("a\tb\n\0c") == "a b c"
    assert plain("中") == "\ufffd"
    assert plain("") == "–"
    assert "\u202e" not in plain("\u202ereversed")


def test_lines_fit_and_nothing_is_lost() -> None:
    for words in HOSTILE:
        wrapped = wrap(words, 1.2)
        assert all(text_width(line) <= 1.2 for line in wrapped.split("\n"))
        assert "".join(wrapped.split()) == "".join(plain(words).split())


def test_very_long_words_lose_their_middle_only() -> None:
    shortened = plain("a" * 1000 + "b" * 1000)
    assert len(shortened) < 300 and shortened.startswith("aaa") and shortened.endswith("bbb")


@pytest.mark.parametrize("width", [1, 2])
def test_legends_of_hostile_labels_are_readable_without_warnings(width: int) -> None:
    with warnings.catch_warnings(), paper_style():
        warnings.simplefilter("error")
        figure, (axis,) = panels(width, 1, 1, 1.5)
        axis.plot([0, 1], [0, 1])
        add_legend(figure, [Line2D([], [], color=mark(index).color) for index in range(len(HOSTILE))], HOSTILE, 7)
        assert_readable(figure)
        # All labels are there, and the axes keep their height.
        assert len(figure.legends[0].get_texts()) == len(HOSTILE) + 1
        assert {"_private", r"\$x\$", "7 others"} <= {each.get_text() for each in texts(figure)}
        assert axis.get_window_extent().height > 0.9 * figure.dpi
    assert figure.get_figwidth() == WIDTHS[width]


def test_marks_differ_without_color() -> None:
    seen = {(mark(index).marker, str(mark(index).line)) for index in range(36)}
    assert len(seen) == 36


def test_of_many_variants_the_best_are_named() -> None:
    labels = [f"trial {index}" for index in range(300)]
    named = best({label: float(index % 250) for index, label in enumerate(labels)}, labels)
    assert len(named) == NAMED and "trial 249" in named and "trial 0" not in named
    look = looks(labels, named)
    assert look["trial 0"].color == OTHERS and not look["trial 0"].marker
    assert len({look[label] for label in named}) == NAMED
    assert best({}, ["a", "b"]) == ["a", "b"]


def test_unknown_width_is_refused() -> None:
    with pytest.raises(UserError, match="width=3 must be 1 or 2"):
        panels(3, 1, 1, 1.0)
