"""Tables of studies in the paper's form: columns of settings, order, published rows with sources, and missing rows."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.make_tables import main
from analysis.paper.build import build_form, row_overrides, settings_of, shipped_rows, words
from analysis.paper.forms import FORMS, Form
from analysis.published import load_published
from analysis.runs import read_runs
from analysis.study import StudyRow
from htc.config.schema import BnMode, Config, Norm, SemanticFusion
from htc.runs.pool import SelectedRun, change_rows
from tests.helpers.run_folders import ON, WriteRun

NAMES = [form.name for form in FORMS]
BY_NAME = {form.name: form for form in FORMS}
COCO = {"name": "coco"}


def select(runs: Path, sweep: str, label: str, *folders: Path, given: tuple[str, ...] = ()) -> None:
    """Add a row of a sweep with its runs."""
    added = [SelectedRun(folder.name, label, overrides=[*given], given=[*given]) for folder in folders]
    change_rows(runs, sweep, lambda rows: [*rows, *added])


def make(runs: Path, *arguments: str) -> Path:
    out = runs.parent / "tables"
    assert main([f"runs={runs}", f"out={out}", "intervals=false", *arguments]) == 0
    return out


def read(path: Path, origin: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["origin"] == origin]


@pytest.fixture
def fusion(runs: Path, write_run: WriteRun) -> Path:
    """The pool of the study of fusion, launched out of order and without the row `box`."""
    for label, mask_ap, model in (
        ("both", 0.33, ON),
        ("mask", 0.32, {**ON, "semantic_fusion": SemanticFusion.mask}),
        ("none", 0.30, {**ON, "semantic": False}),
    ):
        made = [write_run(sweep=None, mask_ap=mask_ap + seed / 100, seed=seed, data=COCO, **model) for seed in (0, 1)]
        for seed, folder in enumerate(made):
            select(runs, "semantic_fusion", label, folder, given=("data=coco", f"seed={seed}"))
    return runs


def test_rows_are_in_the_order_of_the_paper_with_settings_and_differences(fusion: Path) -> None:
    rows = read(make(fusion, "tables=fusion") / "fusion.csv", "own")
    assert [row["fusion"] for row in rows] == ["none", "box", "mask", "both"]
    assert [row["n"] for row in rows] == ["2", "0", "2", "2"]
    assert [row["is_base"] for row in rows] == ["1", "0", "0", "0"]
    assert [row["delta"] and round(float(row["delta"]), 6) for row in rows] == ["", "", 2.0, 3.0]


def test_a_row_that_was_not_launched_is_named_with_its_command(
    fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(fusion, "tables=fusion")
    printed = capsys.readouterr().out
    command = "python -m htc.run -m +sweep=semantic_fusion rows=box data=coco seed=0,1"
    assert f"'box': it was not launched: `{command}`." in printed
    assert "30.5 ± 0.7" in printed and "| base | 2 |" in printed


def test_published_rows_stand_beside_in_blocks_of_their_own_with_sources(fusion: Path) -> None:
    out = make(fusion, "tables=fusion")
    rows = read(out / "fusion.csv", "published")
    assert {row["fusion"] for row in rows} == {"both"} and all(row["source"] for row in rows)
    assert rows[0]["box_AP"] == "43.2" and rows[0]["mask_AP"] == "" and rows[0]["mask_APl"] == "52.3"
    assert all(row["n"] == row["mask_AP_n"] == "" for row in rows), "the number of seeds was not published"
    for ending in ("md", "tex", "html"):
        text = (out / f"fusion.{ending}").read_text("utf-8")
        assert "public leaderboard listing of the paper, COCO minival" in text
        assert "Ours: COCO val2017, ResNet-18-FPN, 300 iterations" in text


def test_another_base_and_metric_of_boxes(fusion: Path) -> None:
    out = make(fusion, "tables=fusion", "base=both", "metric=bbox.AP")
    rows = read(out / "fusion.csv", "own")
    assert [row["is_base"] for row in rows] == ["0", "0", "0", "1"]
    assert "box_AP75" in rows[0] and "mask_AP75" not in rows[0]
    assert "AP50 to APl are box APs" in (out / "fusion.md").read_text("utf-8")


def test_studies_without_runs_are_shown_only_by_name(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(**ON)
    out = make(runs)
    assert not {path.stem for path in out.iterdir()} & set(NAMES)
    capsys.readouterr()
    make(runs, f"tables={','.join(NAMES)}")
    printed = capsys.readouterr().out
    for form in FORMS:
        assert f"There is no finished run of the sweep {form.sweep} below {runs}; `python -m htc.run -m" in printed
        assert read(out / f"{form.name}.csv", "own") == [] != read(out / f"{form.name}.csv", "published")


def test_by_default_only_the_study_that_has_runs_is_added(fusion: Path) -> None:
    assert {path.stem for path in make(fusion).iterdir()} & {*NAMES, "study_semantic_fusion"} == {
        "fusion", "study_semantic_fusion",
    }  # fmt: skip


def test_a_sweep_of_the_user_has_the_form_only_if_asked(runs: Path, write_run: WriteRun) -> None:
    for weight in (0.2, 0.4):
        folder = write_run(sweep=None, mask_ap=weight, semantic_loss_weight=weight, **ON)
        select(runs, "mine", f"w {weight}", folder)
    assert {path.stem for path in make(runs, "sweep=mine").iterdir()} == {"comparison", "components", "study_mine"}
    rows = read(make(runs, "sweep=mine", "tables=beta") / "beta.csv", "own")
    assert [(row["row"], row["beta"]) for row in rows] == [("w 0.2", "0.2"), ("w 0.4", "0.4")]


def test_a_sweep_of_one_study_never_has_the_form_of_another(fusion: Path) -> None:
    out = make(fusion, "sweep=semantic_fusion", f"tables={','.join(NAMES)}")
    assert {path.stem for path in out.iterdir()} == {"fusion"}


def test_rows_that_the_settings_do_not_tell_apart_show_their_labels(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    select(runs, "stage_loss_weights", "halving", write_run(sweep=None, **ON))
    select(runs, "stage_loss_weights", "halving, no flow", write_run(sweep=None, interleaved=True, semantic=True))
    make(runs, "tables=weights")
    printed = capsys.readouterr().out
    assert "| row              | α            |" in printed and "| halving, no flow | 1, 0.5, 0.25 |" in printed


def test_extensions_show_backbone_deformable_convolutions_and_norm(runs: Path, write_run: WriteRun) -> None:
    def extended(config: Config) -> None:
        config.backbone.deformable_stages = [2, 3, 4]
        config.backbone.norm, config.backbone.bn_mode = Norm.sync_bn, BnMode.batch

    select(runs, "extensions", "HTC", write_run(sweep=None, backbone="resnet50", data=COCO, **ON))
    folder = write_run(sweep=None, backbone="resnet50", data=COCO, change=extended, **ON)
    select(runs, "extensions", "+ SyncBN", folder)
    rows = read(make(runs, "tables=extensions") / "extensions.csv", "own")
    assert [(row["row"], row["backbone"], row["dcn"], row["norm"]) for row in rows] == [
        ("HTC", "ResNet-50-FPN", "–", "–"),
        ("+ DCN", "", "✓", "–"),
        ("+ SyncBN", "ResNet-50-FPN", "✓", "SyncBN"),
        ("+ X-101", "ResNeXt-101-64x4d-FPN", "✓", "SyncBN"),
    ]


def test_steps_of_the_paper_are_compared_only_where_both_have_a_figure(runs: Path) -> None:
    rows = read(make(runs, "tables=extensions") / "extensions.csv", "published")
    of_paper = [row for row in rows if "test-dev" in row["block"]]
    assert [row["delta"] and round(float(row["delta"]), 6) for row in of_paper] == [*[""] * 7, 10.6]
    bases = {row["block"]: row["backbone"] for row in rows if row["is_base"] == "1"}
    assert len(bases) == 3 and set(bases.values()) == {"ResNet-50-FPN"}
    assert sum(row["is_base"] == "1" for row in rows) == 3


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_every_form_fits_its_sweep_and_its_published_tables(form: Form, runs: Path) -> None:
    rows = shipped_rows(form.sweep)
    assert form.base in rows
    shown = []
    for label, row in rows.items():
        overrides = row_overrides(row, "coco")
        shown.append((label, *words(form, settings_of(StudyRow(label), {label: overrides})).values()))
    texts = [row if form.labels else row[1:] for row in shown]
    assert len(set(texts)) == len(texts), "the columns tell the rows apart"
    table = build_form(form, read_runs(runs)[0], runs, load_published())
    assert table.blocks and all(block.study.rows and all(block.sources) for block in table.blocks)
    columns = {key for each in form.published for key in each.settings}
    assert columns <= set(form.columns)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles_with_a_plain_class(fusion: Path, tmp_path: Path) -> None:
    out = make(fusion, f"tables={','.join(NAMES)}")
    parts = [(out / f"{name}.tex").read_text("utf-8") for name in NAMES]
    assert all(part.isascii() for part in parts)
    packages = r"\documentclass{article}\usepackage{booktabs,amssymb,graphicx}"
    (tmp_path / "page.tex").write_text(packages + r"\begin{document}" + "\n".join(parts) + r"\end{document}")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, check=False, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
