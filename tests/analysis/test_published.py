"""The tables show the published figures of analysis/reference unchanged, each with its source."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from analysis.make_tables import main
from analysis.published import REFERENCE, load_published
from analysis.render import escape


def test_every_published_row_has_its_source_in_every_format(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    assert main([f"runs={runs}", f"out={out}"]) == 0
    published = load_published()
    for name, tables in (("comparison", published.comparison), ("components", published.components)):
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == sum(len(table.rows) for table in tables)
        assert all(row["origin"] == "published" and row["source"] for row in rows)
        for table in tables:
            assert table.source
            for ending in ("md", "tex"):
                source = escape(table.source) if ending == "tex" else table.source
                assert source in (out / f"{name}.{ending}").read_text("utf-8")


def test_paper_rows_read_as_published(runs: Path, tmp_path: Path) -> None:
    paper, zoo, first_zoo, cascades = load_published().comparison
    (full,) = load_published().components
    assert len(paper.rows) == 8 and paper.rows[5].figures == {
        "box_AP": 43.6, "mask_AP": 38.4, "mask_AP50": 60.0, "mask_AP75": 41.5,
        "mask_APs": 20.4, "mask_APm": 40.7, "mask_APl": 51.2, "fps": 2.5,
    }  # fmt: skip
    assert zoo.rows[1].schedule == "20e" and zoo.rows[1].figures["mask_AP"] == 38.3
    assert "fps" not in zoo.rows[-1].figures
    assert full.rows[0].figures["box_AP"] == 43.2 and "mask_AP" not in full.rows[0].figures
    assert "interleaved (0.2), mask flow (0.6), semantic (0.6)" in full.remark
    assert first_zoo.rows[0].figures == {"box_AP": 42.1, "mask_AP": 37.3, "fps": 4.1}
    assert {row.method for row in cascades.rows} == {"Cascade Mask R-CNN"} and len(cascades.rows) == 6
    assert "span 0.6 mask AP" in zoo.remark and "multi-scale testing, ensemble" in paper.remark


def test_steps_of_the_challenge_entry_are_in_order_and_absent_figures_stay_absent() -> None:
    rows = load_published().tables["extensions"].rows
    assert [row.method for row in rows] == [
        "HTC", "+ DCN", "+ SyncBN", "+ multi-scale training", "+ SENet-154", "+ GA-RPN", "+ multi-scale testing",
        "+ ensemble",
    ]  # fmt: skip
    assert [row.figures for row in rows] == [{"mask_AP": 38.4}, *[{}] * 6, {"mask_AP": 49.0}]
    assert [row.settings["norm"] for row in rows] == ["–", "–", *["SyncBN"] * 6]
    assert [row.backbone for row in rows[3:5]] == ["ResNet-50-FPN", "SENet-154"]


def test_a_table_without_source_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    zoos = folder / "zoos_val2017.yaml"
    zoos.write_text(re.sub(r"source: .*scnet.*", 'source: ""', zoos.read_text()))
    with pytest.raises(ValueError, match="published tables without source: scnet"):
        load_published(folder)
