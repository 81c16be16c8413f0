"""Figures and pictures of a report, of runs that are trained for seconds."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as masks

from analysis.figures.predictions import Shape
from analysis.report.build import build_report
from analysis.report.drawings import outline, reduced
from analysis.report.page import render
from tests.helpers.command import command
from tests.helpers.tiny_run import tiny


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of a sweep of two rows, trained for seconds."""
    runs = tmp_path_factory.mktemp("drawings") / "runs"
    given = [*tiny(runs, iterations=20), "device=cpu", "wandb.mode=disabled", "progress=false", "launcher.jobs=2"]
    rows = ["+hydra.sweeper.rows.with=''", "+hydra.sweeper.rows.without='model.mask_flow=false'"]
    result = command("htc.run", "-m", *given, *rows, "sweep=flow")
    assert result.returncode == 0, result.stderr
    for file in runs.glob("*/evaluations/*/segm.json"):
        # Twenty steps are too few for a score of 0.5.
        rows_ = json.loads(file.read_text())
        file.write_text(json.dumps([{**row, "score": 0.5 + row["score"] / 2} for row in rows_]))
    return runs


@pytest.mark.slow
def test_report_has_figures_and_pictures_of_all_rows(pool: Path) -> None:
    report = build_report(pool, "flow", resamples=100, pictures=3)
    titles = [figure.title for figure in report.figures]
    assert {"Training", "Losses", "AP against the IoU threshold", "AP against speed"} <= set(titles)
    assert report.variants == ["ground truth", "with", "without"] and len(report.pictures) == 3
    results = {
        label: json.loads((pool / origin.runs[0].folder / "evaluations/default/segm.json").read_text())
        for label, origin in zip(("with", "without"), report.origins, strict=True)
    }
    for picture in report.pictures:
        assert [overlay.variant for overlay in picture.overlays] == [0, 1, 2]
        pixels = Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))
        assert pixels.size == (picture.width, picture.height)
        image = int(picture.title.removeprefix("image "))
        for overlay, label in zip(picture.overlays[1:], ("with", "without"), strict=True):
            found = sum(row["image_id"] == image for row in results[label])
            assert 0 < len(overlay.shapes) <= found
    page = render(report)
    assert page.count('<figure class="picture">') == 3 and page.count("<svg") == len(report.figures) + 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "ids are unique in the page"


@pytest.mark.slow
def test_images_that_are_missing_are_a_remark(pool: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(pool, runs)
    for file in runs.glob("*/evaluations/*/segm.json"):
        file.unlink()
    report = build_report(runs, "flow", resamples=0, pictures=3)
    assert report.pictures == [] and any(remark.startswith("No predictions: ") for remark in report.remarks)
    assert "Training" in [figure.title for figure in report.figures]


@pytest.mark.slow
def test_without_matplotlib_there_are_pictures_and_a_remark(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = build_report(pool, "flow", resamples=0, pictures=2)
    assert report.figures == [] and len(report.pictures) == 2
    (remark,) = report.remarks
    assert remark.startswith("No figures: figures need matplotlib") and "pip install" in remark


@pytest.mark.slow
def test_no_pictures_where_none_are_asked_for(pool: Path) -> None:
    report = build_report(pool, "flow", resamples=0, pictures=0)
    assert report.pictures == [] and report.remarks == []


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_outline_covers_its_mask(scale: float) -> None:
    mask = np.zeros((80, 100), np.uint8, order="F")
    mask[10:60, 20:70] = 1
    mask[25:40, 30:50] = 0
    mask[70:78, 80:95] = 1
    encoded = masks.encode(mask)
    x, y, w, h = masks.toBbox(encoded)
    path = outline(Shape("false", 0, "disc", (x, y, x + w, y + h), encoded, 0.5), scale)
    drawn = np.zeros((round(80 * scale), round(100 * scale)), bool)
    for part in path.split("Z")[:-1]:
        points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", part)]
        canvas = Image.new("1", drawn.shape[::-1])
        ImageDraw.Draw(canvas).polygon(points, fill=1)
        # Even and odd: the hole is cut out.
        drawn ^= np.asarray(canvas)
    step = round(1 / scale)
    expected = mask[::step, ::step] > 0
    union, common = (drawn | expected).sum(), (drawn & expected).sum()
    assert common / union > 0.88


def test_large_images_are_reduced() -> None:
    pixels, scale = reduced(np.zeros((3000, 4000, 3), np.uint8))
    assert pixels.shape == (480, 640, 3) and scale == pytest.approx(0.16)
    pixels, scale = reduced(np.zeros((100, 90, 3), np.uint8))
    assert pixels.shape == (100, 90, 3) and scale == 1
