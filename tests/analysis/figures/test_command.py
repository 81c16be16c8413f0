"""The command: all figures of a sweep, some of them, and what it says where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures.__main__ import main
from analysis.figures.drawing import WIDTHS_OF
from tests.helpers.command import ROOT, command
from tests.helpers.run_folders import run_writer


@pytest.mark.slow
def test_all_figures_of_a_sweep_are_drawn(pool: Path, tmp_path: Path) -> None:
    done = command("analysis.figures", f"runs={pool}", "sweep=ideas", f"out={tmp_path}", "resamples=100", "score=0.3")
    assert done.returncode == 0, done.stderr
    expected = {f"ideas_{name}.{ending}" for name in WIDTHS_OF for ending in ("png", "pdf")}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert {Path(line).name for line in done.stdout.splitlines()} == expected
    assert "because it is failed" in done.stderr


def test_figures_width_format_and_rows_are_chosen(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["figures=curves,categories", "width=1", "format=svg", "against=interleaved", "metric=bbox.AP50"]
    assert main([f"runs={pool}", "sweep=ideas", f"out={tmp_path}", "resamples=100", *chosen]) == 0
    assert sorted(Path(line).name for line in capsys.readouterr().out.splitlines()) == [
        "ideas_categories.svg", "ideas_losses.svg", "ideas_training.svg",
    ]  # fmt: skip
    page = (tmp_path / "ideas_categories.svg").read_text()
    assert 'width="237.6pt"' in page and "box AP50 of ‘interleaved’ minus ‘none’" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["figures=curve"], "figures=curve: curve is not one of"),
        (["width=3"], "width=3 must be 1 or 2"),
        (["format=jpg"], "format=jpg: jpg is not one of png, pdf, svg"),
        (["sweep=idea"], "did you mean sweep=ideas"),
        (["metric=segm.ap"], "did you mean segm.AP"),
        (["score=2"], "score=2 must be a number from 0 to 1"),
        (["resamples=9"], "resamples=9 must be a whole number, 100 or more"),
        (["figures=categories", "base=non"], "there is no variant 'non'; did you mean none"),
        (["figures=categories", "base=none", "against=none"], "'none' is compared with itself"),
        (["runs=nowhere"], "runs=nowhere is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    defaults = [f"runs={pool}", "sweep=ideas", f"out={tmp_path}"]
    given = {argument.split("=")[0] for argument in arguments}
    assert main([each for each in defaults if each.split("=")[0] not in given] + arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_the_runs_have_nothing_for_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    run_writer(tmp_path / "runs")()
    run_writer(tmp_path / "runs")(seed=1)
    arguments = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert [Path(line).name for line in printed.out.splitlines()] == ["components_speed.png", "components_speed.pdf"]
    assert "failures is not drawn: " in printed.err and "does not name its annotations" in printed.err
    assert "effects is not drawn: the sweep components has no effects" in printed.err
    # What was asked for by its name is an error.
    assert main([*arguments, "figures=speed,failures"]) == 2


def test_a_pool_without_finished_runs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    run_writer(tmp_path / "runs")(status="failed")
    assert main([f"runs={tmp_path / 'runs'}"]) == 2
    assert "no run below" in capsys.readouterr().err


def test_without_matplotlib_the_sentence_names_the_extra(pool: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from analysis.figures.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, f"runs={pool}", f"out={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "pip install 'htc[figures]'" in done.stderr and "Traceback" not in done.stderr


def test_neither_pytorch_is_imported_nor_matplotlib_before_it_is_needed(pool: Path, tmp_path: Path) -> None:
    code = (
        "import sys; import analysis.figures; assert 'matplotlib' not in sys.modules; "
        "from analysis.figures.__main__ import main; assert main() == 0; assert 'torch' not in sys.modules"
    )
    arguments = [f"runs={pool}", "sweep=ideas", f"out={tmp_path}", "figures=speed,failures", "score=0.3"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
