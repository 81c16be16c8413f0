"""Figures as files, and as SVG for a page in HTML: such a figure follows the light or dark colors of the page."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from analysis.figures.style import DPI, paper_style
from htc.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
BLACK = re.compile(r"#000000\b|#000\b(?!\w)|\bblack\b")
PREFIX = re.compile(r"[A-Za-z][\w-]*")
FORMATS = ("png", "pdf", "svg")
MOST_PIXELS = 60000
"""Largest height of a PNG, which drawing limits."""
_numbers = itertools.count(1)


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure in some formats, and return the files. The same runs give the same files.

    Args:
        figure: the figure.
        path: the file without its ending; its folder is made.
        formats: endings, of FORMATS.

    Raises:
        UserError: where a file cannot be written, or matplotlib is missing.
    """
    written = []
    for ending in formats:
        file = path.with_name(f"{path.name}.{ending}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if ending == "svg":
                file.write_text(svg(figure, prefix="figure"), encoding="utf-8")
            else:
                with paper_style():
                    figure.savefig(
                        file, dpi=min(DPI, MOST_PIXELS / figure.get_figheight()),
                        # Without a date, equal figures give equal files.
                        metadata={"CreationDate": None} if ending == "pdf" else None,
                    )  # fmt: skip
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror}): name another folder, out=FOLDER.") from error
        written.append(file)
    return written


def svg(figure: Figure, title: str = "", prefix: str = "") -> str:
    """Return a figure as one `<svg>` element for a page in HTML.

    What is black, text and axes, has the color of the page's text (`currentColor`), and there is no background, so that
    the figure follows light and dark. The element shrinks to the width of the page.

    Args:
        figure: a figure of this package.
        title: words for those who do not see the figure.
        prefix: beginning of the ids, which must be unique in the page; empty for a new one per call.

    Raises:
        UserError: for a prefix that is no beginning of an id, or where matplotlib is missing.
    """
    prefix = prefix or f"figure{next(_numbers)}"
    if not PREFIX.fullmatch(prefix):
        raise UserError(f"prefix={prefix!r} must begin with a letter, and consist of letters, digits, _ and -.")
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _remove(root, f"{{{SVG}}}metadata")
    _remove(root, f"{{{SVG}}}style")
    for element in root.iter():
        _make_local(element, prefix)
    # Without an own color, text and areas have that of the page. matplotlib's rule for all elements of a page is here.
    root.set("style", "max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt")
    root.set("fill", "currentColor")
    root.set("role", "img")
    if title:
        words = ElementTree.Element(f"{{{SVG}}}title")
        words.text = "".join(each for each in title if each.isprintable())
        root.insert(0, words)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _remove(parent: ElementTree.Element, tag: str) -> None:
    for child in list(parent):
        if child.tag == tag:
            parent.remove(child)
        else:
            _remove(child, tag)


def _make_local(element: ElementTree.Element, prefix: str) -> None:
    """Give an element's id and references the prefix, and replace black."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{prefix}-{value}")
        elif key in (f"{{{XLINK}}}href", "href") and value.startswith("#"):
            element.set(key, f"#{prefix}-{value[1:]}")
        elif key != "d":
            changed = value.replace("url(#", f"url(#{prefix}-")
            element.set(key, BLACK.sub("currentColor", changed) if key in ("style", "fill", "stroke") else changed)
