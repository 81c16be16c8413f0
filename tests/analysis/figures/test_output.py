"""Files for papers, whose text is text, and SVG for pages, which follows their colors."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from analysis.figures import Group, categories_figure, cost_figure, read_categories, save_figure, speed_figure, svg
from analysis.figures.style import DPI
from analysis.statistics.resampled import Resampler
from htc.errors import UserError


def test_files_have_the_width_of_the_column(group: Group, tmp_path: Path) -> None:
    for width, inches in ((1, 3.3), (2, 6.9)):
        png, pdf = save_figure(speed_figure(group.variants, width), tmp_path / "new" / f"speed{width}")
        with Image.open(png) as image:
            assert image.width == round(inches * DPI)
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf.read_bytes())
        assert box is not None and float(box[1]) == pytest.approx(72 * inches, abs=0.1)


def test_text_of_a_pdf_is_text_with_embedded_fonts(group: Group, tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None or shutil.which("pdffonts") is None:
        pytest.skip("poppler is not installed")
    _, pdf = save_figure(cost_figure(group.variants), tmp_path / "cost")
    text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
    assert {"none", "interleaved", "$x$ _flow <b>&", "both", "mask AP (%)"} <= set(text.splitlines())
    fonts = subprocess.run(["pdffonts", pdf], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts and all("TrueType" in line and " yes yes " in line for line in fonts)


def test_equal_figures_give_equal_files(group: Group, tmp_path: Path) -> None:
    first, second = (
        save_figure(speed_figure(group.variants), tmp_path / name, ("png", "pdf", "svg")) for name in ("a", "b")
    )
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.suffix


def test_svg_follows_the_page_and_its_ids_are_its_own(group: Group) -> None:
    figures = [speed_figure(group.variants), cost_figure(group.variants)]
    page = "".join(svg(figure, "AP & <cost>") for figure in figures)
    assert "#000000" not in page and "<style" not in page and "currentColor" in page
    root = ElementTree.fromstring(f"<div>{page}</div>")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert references and all((first or second) in ids for first, second in references)
    words = [element.text for element in root.iter() if element.tag.endswith(("}text", "}title"))]
    assert {"$x$ _flow <b>&", "mask AP (%)", "AP & <cost>"} <= set(words)
    # No background: the areas of the figure and of its axes have no color.
    backgrounds = [element for element in root.iter() if (element.get("id") or "").endswith(("patch_1", "patch_2"))]
    assert len(backgrounds) == 4 and all("fill: none" in path.get("style", "") for each in backgrounds for path in each)


def test_svg_with_a_hostile_prefix_is_refused(group: Group) -> None:
    figure = speed_figure(group.variants)
    assert 'id="speed-figure_1"' in svg(figure, prefix="speed")
    with pytest.raises(UserError, match="must begin with a letter"):
        svg(figure, prefix='"><script>')


def test_hostile_categories_stay_text(group: Group) -> None:
    base, *_, other = group.variants
    differences = read_categories(base, other, Resampler(100))
    page = svg(categories_figure(differences, base.label, "</svg><script>alert(1)</script>"))
    assert "<script" not in page
    text = " ".join(filter(None, (each.text for each in ElementTree.fromstring(page).iter())))
    assert "$a$_b" in text and "<script>" in text.replace(" ", "")


def test_folder_that_cannot_be_written_is_one_sentence(group: Group, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_figure(speed_figure(group.variants), tmp_path / "file" / "speed")
