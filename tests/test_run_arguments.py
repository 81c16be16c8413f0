"""What the arguments of `python -m htc.run` mean: nothing is silently done otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from htc.errors import UserError
from htc.run import check_options, expand_short_forms
from tests.helpers.command import ROOT, clean_environment, command


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["seed=0,1", "-m"], ["-m", "seed=0,1"]),
        (["hydra/launcher=slurm"], ["-m", "hydra/launcher=slurm"]),
        (["launcher.jobs=2"], ["-m", "hydra.launcher.jobs=2"]),
        (["hydra.launcher.jobs=2"], ["-m", "hydra.launcher.jobs=2"]),
        (["--cfg", "hydra", "hydra/launcher=slurm"], ["--cfg", "hydra", "hydra/launcher=slurm"]),
        (["--cfg=job", "launcher.jobs=2"], ["--cfg=job", "hydra.launcher.jobs=2"]),
        (["--dry-run"], ["-m", "hydra.launcher.dry_run=true"]),
        (["checkpoint=FILE"], ["checkpoint.file=FILE"]),
        (["+sweep=beta"], ["+sweeps=beta"]),
        (["+sweep=beta,components"], ["-m", "+sweeps=beta,components"]),
        (["+sweep=beta", "seed=1", "+sweep=components"], ["-m", "seed=1", "+sweeps=beta,components"]),
        (["+sweep=glob(*)"], ["-m", "+sweeps=glob(*)"]),
        (["sweep=beta"], ["+sweeps=beta"]),
        (["sweep=mine", "-m"], ["-m", "sweep=mine"]),
        (["+sweep=beta", "sweep=mine"], ["sweep=mine", "+sweeps=beta"]),
        (["rows=cascade"], ["hydra.sweeper.select=['cascade']"]),
        (["rows=+ mask flow,'a, b'"], ["hydra.sweeper.select=['+ mask flow','a, b']"]),
        (["experiment=null"], []),
    ],
)
def test_short_forms_become_those_of_hydra(given: list[str], expected: list[str]) -> None:
    assert expand_short_forms(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--foo"], "--foo is not an option of htc.run"),
        (["--multirn"], "did you mean --multirun"),
        (["--cfg"], "--cfg needs one of job, hydra, all"),
        (["--cfg", "jb"], "--cfg needs one of job, hydra, all"),
        (["--cfg", "job", "-m"], "has no meaning with -m"),
        (["-c", "job", "+sweep=beta"], "has no meaning with +sweep=beta"),
        (["--config-dir"], "--config-dir needs a value"),
        (["-cn", "mine"], "-cn is not an option"),
    ],
)
def test_options_that_would_do_something_else_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_options(given)
    assert message in error.value.sentence


@pytest.mark.parametrize("given", [["--cfg", "job", "-p", "model"], ["--info"], ["--info", "plugins"], ["-h"], ["-m"]])
def test_options_of_hydra_are_accepted(given: list[str]) -> None:
    check_options(given)


def test_dry_run_of_the_papers_studies_shows_20_runs_for_26_rows(tmp_path: Path) -> None:
    studies = "beta,comparison,components,extensions,semantic_fusion,stage_loss_weights"
    result = command("htc.run", f"+sweep={studies}", "data=coco", "data.root=/coco", f"runs={tmp_path}", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "20 runs for 26 rows: 20 to start" in result.stdout
    assert "+ semantic, HTC, both, halving" in result.stdout or "beta 0.2" in result.stdout


def test_name_of_a_sweep_file_without_plus_is_that_sweep_and_says_so(tmp_path: Path) -> None:
    result = command("htc.run", "-m", "sweep=beta", f"runs={tmp_path}", "--dry-run")
    assert result.returncode == 0 and "5 runs: 5 to start" in result.stdout
    assert result.stderr == "note: sweep=beta names a sweep file: it is read as +sweep=beta.\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-m", "size=paper,narrow"], "2 runs: 2 to start"),
        (["-m", "experiment=overfit_coco,null", "data.root=/d"], "2 runs: 2 to start"),
        (["+sweep=components", "rows=cascade,*flow"], "2 runs: 2 to start"),
        (["+sweep=components", "hydra.sweeper.rows.cascade=null"], "3 runs: 3 to start"),
        (["+sweep=components", "+hydra.sweeper.rows.new='seed=4 model=mask_rcnn'"], "5 runs: 5 to start"),
        (["hydra/launcher=local"], "1 runs: 1 to start"),
    ],
)
def test_choices_and_rows_are_planned_as_they_are_meant(given: list[str], expected: str, tmp_path: Path) -> None:
    result = command("htc.run", *given, f"runs={tmp_path}", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_rows_of_a_sweep_file_may_set_groups_and_options_of_the_launcher(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(
        "# @package _global_\nsweep: own\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    rows:\n"
        "      'β = 0.5': size=paper eval=paper\n      'größe, [x]': {overrides: data=shapes size=narrow, "
        "launcher: {retries: 1}}\n    params: {seed: range(2)}\n"
    )
    result = command("htc.run", "+sweep=own", f"runs={tmp_path / 'runs'}", "--dry-run", HTC_CONFIG_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "4 runs: 4 to start" in result.stdout and "β = 0.5" in result.stdout and "größe, [x]" in result.stdout
    wrong = (tmp_path / "sweeps" / "own.yaml").read_text().replace("retries", "retrys")
    (tmp_path / "sweeps" / "own.yaml").write_text(wrong)
    result = command("htc.run", "+sweep=own", f"runs={tmp_path / 'runs'}", "--dry-run", HTC_CONFIG_DIR=str(tmp_path))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "launcher.retrys is not an option of the launcher local in row 'größe, [x]'; did you mean retries" in (
        result.stderr
    )


REFUSED = [
    ("seed==3", "seed==3 cannot be read"),
    ("seed=range(", "a bracket or quote is not closed; write it as in 'seed=range()'"),
    ("data.root=~/coco", """needs quotes, as in 'data.root="~/coco"'"""),
    ("schedule.milestones=[8,11", "write it as in 'schedule.milestones=[8,11]'"),
    ("ß=3", "ß is no key"),
    ("=3", "=3 has no key"),
    ("seed", "seed is not of the form KEY=VALUE"),
    ("model=", "model= is not one of cascade_mask_rcnn, htc, mask_rcnn"),
    ("model=htc,mask_rcnn", "add -m for a run of each"),
    ("+model=htc", "model has a choice already: write model=NAME"),
    ("model@x=htc", "write model=htc"),
    ("name=${nokey}", "Interpolation key 'nokey' not found"),
    ("hydra.sweeper.rows.cascad='model=htc'", "cascad is not the label of a row"),
]
"""Arguments that Hydra cannot read, and parts of the sentence about them."""


@pytest.mark.parametrize(
    ("given", "sentence", "full_error"),
    [*((*each, "") for each in REFUSED), *((*each, value) for each in REFUSED[:2] for value in "01")],
)
def test_what_hydra_cannot_read_is_one_sentence_with_an_example(given: str, sentence: str, full_error: str) -> None:
    result = command("htc.run", given, HYDRA_FULL_ERROR=full_error)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert sentence in result.stderr


@pytest.mark.parametrize("given", [["--help"], ["--cfg", "job"]])
def test_reader_that_closes_the_pipe_is_no_error(given: list[str]) -> None:
    shell = f"{sys.executable} -u -m htc.run {' '.join(given)} | head -1"
    result = subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert "BrokenPipe" not in result.stderr and "Traceback" not in result.stderr
