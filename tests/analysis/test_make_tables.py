"""The command that makes the tables, and the text of the tables."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.make_tables import main
from htc.config.schema import BnMode, Config, Norm, Precision, RPNConfig, SemanticFusion
from htc.runs.evaluations import evaluation_folder
from tests.helpers.command import clean_environment, command, run_code
from tests.helpers.run_folders import ON, WriteRun

RESULTS = "evaluations/default/results.json"


def tables(runs: Path, *arguments: str) -> tuple[Path, list[dict[str, str]], list[dict[str, str]]]:
    """Run the command, and return the folder of tables and the own rows of comparison.csv and components.csv."""
    out = runs.parent / "tables"
    assert main([f"runs={runs}", f"out={out}", *arguments]) == 0
    contents = []
    for name in ("comparison", "components"):
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            contents.append([row for row in csv.DictReader(file) if row["origin"] == "own"])
    return out, contents[0], contents[1]


def test_script_prints_and_writes_both_tables_from_any_folder(runs: Path, write_run: WriteRun, tmp_path: Path) -> None:
    write_run(mask_ap=0.3, **ON)
    # The script must find the packages without PYTHONPATH.
    environment = clean_environment("PYTHONPATH", LC_ALL="C", PYTHONUTF8="0")
    done = command("analysis/make_tables.py", "runs=runs", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    written = [
        (tmp_path / "tables" / f"{name}.md").read_text("utf-8")
        for name in ("comparison", "components", "study_components")
    ]
    assert done.stdout == "\n".join(written)
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".md", ".tex", ".csv", ".html"}


def test_module_form_works_too(runs: Path, tmp_path: Path) -> None:
    done = command("analysis.make_tables", f"runs={runs}", f"out={tmp_path / 't'}")
    assert done.returncode == 0
    assert "There is no finished run" in done.stdout


def test_torch_is_never_imported(runs: Path, write_run: WriteRun, tmp_path: Path) -> None:
    write_run()
    program = (
        "import sys; from analysis.make_tables import main; "
        f"status = main(['runs={runs}', 'out={tmp_path / 't'}']); "
        "sys.exit(status or ('torch' in sys.modules and 9))"
    )
    assert run_code(program).returncode == 0


@pytest.mark.parametrize(
    ("argument", "nearest"), [("run=x", "runs"), ("--output=x", "out"), ("sweeps=a", "sweep"), ("runs", "runs=VALUE")]
)
def test_unusable_argument_is_refused_in_one_sentence(
    argument: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert nearest in captured.err


def test_missing_folder_and_unwritable_out_are_refused_by_name(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"runs={tmp_path / 'nowhere'}"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([f"runs={runs}", f"out={tmp_path / 'file'}"]) == 2
    assert f"out={tmp_path / 'file'}" in capsys.readouterr().err


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{key}=" in printed for key in ("runs", "out", "sweep"))


def test_without_finished_runs_only_published_rows_are_shown_with_a_remark(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(status="queued")
    _, comparison, components = tables(runs)
    assert comparison == components == []
    printed = capsys.readouterr().out
    assert printed.count("There is no finished run below") == 2
    assert "| Mask R-CNN         | ResNet-50-FPN   | COCO | test-dev |" in printed
    assert "Not finished, queued: `htc-" in printed


def test_seeds_are_averaged_with_sample_deviation(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, mask_ap in enumerate((0.28, 0.30, 0.32)):
        write_run(mask_ap=mask_ap, seed=seed, **ON)
    _, (row,), _ = tables(runs)
    assert (float(row["mask_AP_mean"]), float(row["mask_AP_std"]), row["mask_AP_n"]) == (30.0, 2.0, "3")
    assert row["mask_APl_mean"] == ""
    assert len(row["source"].split("; ")) == 3
    assert "30.0 ± 2.0" in capsys.readouterr().out


def test_runs_that_differ_in_settings_without_effect_on_the_result_are_one_row(runs: Path, write_run: WriteRun) -> None:
    write_run(seed=0, change=lambda config: setattr(config.data, "workers", 7), **ON)
    write_run(seed=1, change=lambda config: setattr(config.wandb, "project", "other"), **ON)
    _, rows, _ = tables(runs)
    assert [row["seeds"] for row in rows] == ["2"]


def test_rows_that_would_look_alike_show_the_settings_in_which_they_differ(runs: Path, write_run: WriteRun) -> None:
    write_run(**ON)
    write_run(change=lambda config: setattr(config.schedule, "learning_rate", 0.01), **ON)
    _, comparison, components = tables(runs)
    expected = ["HTC (schedule.learning_rate=0.01)", "HTC (schedule.learning_rate=0.02)"]
    assert sorted(row["method"] for row in comparison) == expected
    assert len({row["block"] for row in components}) == 2, "rows of different learning rates are not comparable"


def test_rows_of_different_methods_show_the_settings_in_which_they_differ_too(runs: Path, write_run: WriteRun) -> None:
    mask_rcnn = {"name": "mask_rcnn", "class_agnostic": False, "box_loss": "l1", "low_quality_matches": True}
    mask_rcnn["rpn"] = RPNConfig(allowed_border=-1, train_proposals=1000)
    write_run(change=lambda config: setattr(config.eval, "score_threshold", 0.001), **mask_rcnn)
    write_run(change=lambda config: setattr(config, "precision", Precision.bf16), num_stages=2, **ON)
    write_run(change=lambda config: setattr(config.model, "rois_per_image", 128), name="cascade_mask_rcnn")
    _, comparison, _ = tables(runs)
    assert [row["method"] for row in comparison] == [
        "Mask R-CNN",
        "Cascade Mask R-CNN (model.rois_per_image=128, precision=fp32)",
        "HTC 2 stages (precision=bf16)",
    ]
    blocks = [row["block"] for row in comparison]
    assert blocks[1] == blocks[2] != blocks[0], "results of different evaluations are never in one block"
    assert "eval.score_threshold=0.001" in blocks[0]


def test_backbone_column_shows_what_differs_from_the_network_of_the_paper(runs: Path, write_run: WriteRun) -> None:
    def extended(config: Config) -> None:
        config.backbone.deformable_stages = [2, 3, 4]
        config.backbone.norm, config.backbone.bn_mode = Norm.sync_bn, BnMode.batch

    write_run(backbone="resnext101_64x4d", change=extended, **ON)
    write_run(backbone="resnet50", **ON)
    _, comparison, _ = tables(runs)
    assert [row["backbone"] for row in comparison] == ["ResNeXt-101-64x4d-FPN (DCN c3-c5, SyncBN)", "ResNet-50-FPN"]
    assert [row["method"] for row in comparison] == ["HTC", "HTC"]


@pytest.mark.parametrize(("weights", "base"), [([0.5, 1.0], ["0", "0"]), ([0.5, 0.2], ["0", "1"])])
def test_among_rows_with_the_same_ideas_the_methods_own_settings_are_the_base(
    runs: Path, write_run: WriteRun, weights: list[float], base: list[str]
) -> None:
    for weight in weights:
        write_run(semantic_loss_weight=weight, mask_ap=weight / 2, **ON)
    _, _, rows = tables(runs)
    found = {row["method"]: row["is_base"] for row in rows}
    assert found == {f"HTC (model.semantic_loss_weight={w})": is_base for w, is_base in zip(weights, base, strict=True)}
    assert all(row["mask_AP_delta"] == "" for row in rows if "1" not in base)


def test_deltas_are_to_the_cascade_without_ideas(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(name="mask_rcnn", mask_ap=0.25)
    write_run(mask_ap=0.27)
    write_run(mask_ap=0.2764, interleaved=True)
    write_run(mask_ap=0.29, **ON)
    write_run(mask_ap=0.4, backbone="resnet50", **ON)
    _, _, rows = tables(runs)
    small = [row for row in rows if row["backbone"] == "ResNet-18-FPN"]
    assert [row["mask_AP_delta"] for row in small] == ["-2.0", "", "0.64", "2.0"]
    assert [row["is_base"] for row in small] == ["0", "1", "0", "0"]
    assert [row["is_base"] for row in rows if row["backbone"] == "ResNet-50-FPN"] == ["1"]
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("−2.0", "+0.6", "+2.0", " base |"))


def test_fusion_and_stages_are_columns_only_where_they_vary(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(**ON)
    write_run(interleaved=True)
    tables(runs)
    assert "| fusion |" not in capsys.readouterr().out
    write_run(semantic_fusion=SemanticFusion.mask, **ON)
    write_run(num_stages=2, **ON)
    tables(runs)
    assert "| fusion | stages |" in capsys.readouterr().out


def test_data_sets_and_published_rows_never_share_a_block(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(**ON)
    write_run(data={"name": "coco"}, images=5000, **ON)
    write_run(data={"name": "coco"}, images=100, seed=1, change=lambda config: setattr(config.eval, "limit", 100), **ON)
    _, rows, _ = tables(runs)
    blocks = ["Ours: COCO (100 images) val2017", "Ours: COCO val2017", "Ours: shapes val2017"]
    assert [row["block"] for row in rows] == blocks
    headings = re.findall("^### (.*)$", capsys.readouterr().out.split("## What each")[0], re.MULTILINE)
    assert headings == [*blocks, "Published: COCO test-dev", "Published: COCO val2017"]


def test_unfinished_runs_are_listed_with_their_status_and_not_averaged(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(**ON)
    failed = write_run(seed=1, status="failed", **ON)
    (failed / "config.yaml").unlink()
    _, rows, _ = tables(runs)
    assert [row["seeds"] for row in rows] == ["1"]
    assert f"Not finished, failed: `{failed.name}`." in capsys.readouterr().out


def test_newest_run_of_a_repeated_seed_is_used_and_a_remark_names_it(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(mask_ap=0.20, end="2025-01-03T00:00:00Z", suffix="-r9", **ON)
    newest = write_run(mask_ap=0.30, end="2025-01-03T09:00:00+08:00", suffix="-r2", **ON)
    write_run(mask_ap=0.10, end="2025-01-01T00:00:00Z", **ON)
    _, (row,), _ = tables(runs)
    assert (row["mask_AP_mean"], row["source"]) == ("30.0", newest.name)
    printed = capsys.readouterr().out
    assert f"the newest, `{newest.name}`, is used" in printed


def test_fps_of_different_conditions_is_not_averaged(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(seed=0, fps=2.0, **ON)
    write_run(seed=1, fps=8.0, conditions={"device": "Other GPU"}, **ON)
    _, (row,), _ = tables(runs)
    assert row["fps_mean"] == ""
    assert (
        "2.0 (Example GPU_1, 2 threads, fp32, batch size 1, input size [192, 192]); 8.0 (Other GPU)"
        in capsys.readouterr().out
    )


def test_sweep_selects_runs_and_an_unknown_sweep_is_refused(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(sweep="components", **ON)
    write_run(sweep="single", name="mask_rcnn")
    _, rows, _ = tables(runs, "sweep=single")
    assert [row["method"] for row in rows] == ["Mask R-CNN"]
    assert main([f"runs={runs}", "sweep=component"]) == 2
    assert "did you mean sweep=components?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b'{"status": "do'),
        ("run.json", b"[1, 2]"),
        ("run.json", b'{"version": 3}'),
        ("run.json", b"\xff\xfe\x00"),
        ("config.yaml", b"model: {name: ht"),
        ("config.yaml", b"just words"),
        ("config.yaml", None),
        (RESULTS, b""),
        (RESULTS, b'{"bbox": {"AP": 0.3}}'),
        (RESULTS, b'{"bbox": {"AP": "high"}, "segm": {}}'),
        (RESULTS, b'{"bbox": {"AP": 36.9}, "segm": {}}'),
    ],
)
def test_damaged_or_foreign_file_is_skipped_by_name_and_other_runs_are_kept(
    file: str, content: bytes | None, runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(seed=0, **ON)
    broken = write_run(seed=1, **ON)
    (broken / file).unlink() if content is None else (broken / file).write_bytes(content)
    _, rows, _ = tables(runs)
    assert [row["seeds"] for row in rows] == ["1"]
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert str(broken / file) in errors


def test_tables_show_one_evaluation_and_never_mix_two(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    both = write_run(seed=0, mask_ap=0.3, **ON)
    paper = json.loads((both / RESULTS).read_text())
    paper["segm"]["AP"], paper["settings"]["eval.score_threshold"] = 0.32, 0.001
    evaluation_folder(both, "paper").write(paper)
    only_default = write_run(seed=1, mask_ap=0.5, **ON)
    _, (row,), _ = tables(runs)
    assert (row["mask_AP_mean"], row["seeds"]) == ("40.0", "2")
    capsys.readouterr()
    _, (row,), _ = tables(runs, "eval=paper")
    assert (row["mask_AP_mean"], row["seeds"]) == ("32.0", "1")
    assert f"python -m htc.evaluate run={only_default} eval=paper" in capsys.readouterr().err
    assert main([f"runs={runs}", "eval=papr"]) == 2
    assert "no run below" in (error := capsys.readouterr().err) and "default, paper" in error


def test_without_the_default_evaluation_the_only_one_is_shown_and_of_several_one_must_be_chosen(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(evaluation="paper", mask_ap=0.3, **ON)
    _, (row,), _ = tables(runs)
    assert row["mask_AP_mean"] == "30.0"
    evaluation_folder(first, "strict").write({})
    assert main([f"runs={runs}"]) == 2
    assert "the runs have the evaluations paper, strict: choose one, as in eval=paper." in capsys.readouterr().err


def test_same_data_at_another_place_are_one_data_set_and_other_data_at_the_same_place_are_not(
    runs: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = ({"train": {"annotations": digest * 8, "images": 9}} for digest in ("a", "b"))
    write_run(seed=0, data={"name": "coco", "root": "/a"}, content=ours, **ON)
    write_run(seed=1, data={"name": "coco", "root": "/b"}, content=ours, **ON)
    _, (row,), _ = tables(runs)
    assert row["seeds"] == "2"
    changed = write_run(seed=2, data={"name": "coco", "root": "/b"}, content=theirs, **ON)
    _, rows, _ = tables(runs)
    assert sorted(row["seeds"] for row in rows) == ["1", "2"]
    printed = capsys.readouterr().out
    assert "Not averaged: the data at data.root=/b had other content" in printed and changed.name in printed


@pytest.mark.parametrize(
    ("of_seeds", "remark"),
    [
        ([("a" * 40, False), ("a" * 40, False)], False),
        ([("a" * 40, False), ("b" * 40, False)], True),
        ([("a" * 40, True), ("a" * 40, True)], True),
        ([("a" * 40, False), (None, None)], True),
    ],
)
def test_seeds_of_different_code_are_averaged_with_a_remark(
    runs: Path,
    write_run: WriteRun,
    capsys: pytest.CaptureFixture[str],
    of_seeds: list[tuple[str | None, bool | None]],
    remark: bool,
) -> None:
    for seed, (commit, dirty) in enumerate(of_seeds):
        write_run(seed=seed, git={"commit": commit, "dirty": dirty, "diff": ""}, **ON)
    _, (row,), _ = tables(runs)
    assert row["seeds"] == "2"
    assert ("Averaged although the code may differ between the seeds" in capsys.readouterr().out) is remark


def test_order_does_not_depend_on_the_order_of_folders(runs: Path, write_run: WriteRun) -> None:
    write_run(**ON)
    write_run(backbone="resnet101", **ON)
    write_run(backbone="resnet50", **ON)
    write_run(name="cascade_mask_rcnn", backbone="resnet50")
    write_run(interleaved=True)
    out, rows, _ = tables(runs)
    assert [(row["method"], row["backbone"]) for row in rows] == [
        ("Cascade Mask R-CNN", "ResNet-50-FPN"),
        ("HTC w/o mask flow and semantic branch", "ResNet-18-FPN"),
        ("HTC", "ResNet-18-FPN"),
        ("HTC", "ResNet-50-FPN"),
        ("HTC", "ResNet-101-FPN"),
    ]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    moved = runs / "another"
    shutil.move(runs, runs.with_name("pool"))
    runs.mkdir()
    shutil.move(runs.with_name("pool"), moved)
    tables(runs)
    after = {path.name: path.read_bytes().replace(b"another/", b"") for path in out.iterdir()}
    assert after == before


def test_latex_has_one_cell_per_column_and_nothing_unescaped(runs: Path, write_run: WriteRun, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(seed=seed, mask_ap=0.3 + seed / 100, conditions={"device": "A_100 & 50% #1 {x}"}, **ON)
    write_run(change=lambda config: setattr(config.schedule, "learning_rate", 0.01), **ON)
    out, _, _ = tables(runs)
    for name in ("comparison", "components"):
        text = (out / f"{name}.tex").read_text("utf-8")
        assert text.isascii()
        printed = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines())
        assert re.findall(r"\\begin{(\w+\*?)}", printed) == ["table*", "tabular", "minipage"]
        assert re.findall(r"\\end{(\w+\*?)}", printed) == ["tabular", "minipage", "table*"]
        assert len(re.findall(r"(?<!\\){", printed)) == len(re.findall(r"(?<!\\)}", printed))
        assert len(re.findall(r"(?<!\\)\$", printed)) % 2 == 0
        assert not re.search(r"(?<!\\)[_#^]", printed)
        (alignment,) = re.findall(r"\\begin{tabular}{(\w+)}", printed)
        body = printed.split(r"\toprule")[1].split(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.strip().endswith(r"\\") and "multicolumn" not in line]
        assert len(rows) > 2 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(alignment) - 1}
        assert text.count("% runs: htc-") == 2
        if shutil.which("pdflatex"):
            packages = r"\documentclass{article}\usepackage{booktabs,amssymb,graphicx}"
            document = rf"{packages}\begin{{document}}{text}\end{{document}}"
            (tmp_path / f"{name}-page.tex").write_text(document)
            compiled = subprocess.run(
                ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}-page.tex"],
                cwd=tmp_path, check=False, capture_output=True, timeout=120,
            )  # fmt: skip
            assert compiled.returncode == 0, compiled.stdout[-2000:]
