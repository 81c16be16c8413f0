"""The tables show the published figures of analysis/reference unchanged, each with its source."""

from __future__ import annotations

import csv
from pathlib import Path

from analysis.make_tables import main
from analysis.published import load_published


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
                assert table.source in (out / f"{name}.{ending}").read_text("utf-8")


def test_paper_rows_read_as_published(runs: Path, tmp_path: Path) -> None:
    paper, zoo = load_published().comparison
    (full,) = load_published().components
    assert len(paper.rows) == 8 and paper.rows[5].figures == {
        "box_AP": 43.6, "mask_AP": 38.4, "mask_AP50": 60.0, "mask_AP75": 41.5,
        "mask_APs": 20.4, "mask_APm": 40.7, "mask_APl": 51.2, "fps": 2.5,
    }  # fmt: skip
    assert zoo.rows[1].schedule == "20e" and zoo.rows[1].figures["mask_AP"] == 38.3
    assert "fps" not in zoo.rows[-1].figures
    assert full.rows[0].figures["box_AP"] == 43.2 and "mask_AP" not in full.rows[0].figures
    assert "interleaved (0.2), mask flow (0.6), semantic (0.6)" in full.remark
    assert "span 0.6 mask AP" in zoo.remark and "multi-scale testing, ensemble" in paper.remark
