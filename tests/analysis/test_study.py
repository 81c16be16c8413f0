"""Tables of sweeps: rows and labels, differences with intervals, effects of a factorial, and what is missing."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.factorial import build_factorial, effect_weights, gain, shapley_weights
from analysis.factorial_render import write_factorial
from analysis.make_tables import DEFAULTS, Choices, make_tables
from analysis.runs import Run, read_runs
from analysis.sheet import latex, markdown
from analysis.statistics.resampled import KEYS, ResampledRun, Resampler
from analysis.study import Study, StudyRow, build_study
from analysis.study_render import csv, study_sheet
from htc.errors import UserError
from htc.runs.pool import SelectedRun, change_rows, read_rows
from tests.helpers.command import command
from tests.helpers.tiny_run import tiny

IMAGES, RESAMPLES = 200, 300
FACTORS = ("model.interleaved", "model.mask_flow", "model.semantic")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of a sweep of two rows with two seeds, trained for seconds."""
    runs = tmp_path_factory.mktemp("study") / "runs"
    given = [*tiny(runs, iterations=20), "device=cpu", "wandb.mode=disabled", "progress=false", "launcher.jobs=2"]
    rows = ["+hydra.sweeper.rows.with=''", "+hydra.sweeper.rows.without='model.mask_flow=false'"]
    result = command("htc.run", "-m", *given, *rows, "seed=0,1", "sweep=flow")
    assert result.returncode == 0, result.stderr
    return runs


@pytest.fixture
def pool(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def study_of(pool: Path, **options: Any) -> Study:
    return build_study(read_runs(pool)[0], pool, "flow", **{"resampler": Resampler(100), **options})


def test_table_of_a_sweep_has_its_rows_in_order_with_differences_and_intervals(pool: Path, tmp_path: Path) -> None:
    text = make_tables(pool, tmp_path / "out", "flow", choices=Choices(tables=("study",), resamples=100))
    lines = [line for line in text.splitlines() if line.startswith("| w")]
    assert [line.split("|")[1].strip() for line in lines] == ["with", "without"]
    assert [line.split("|")[2].strip() for line in lines] == ["2", "2"]
    assert "base" in lines[0] and "[" in lines[1]
    assert f"With 2 seeds and {study_of(pool).images} images" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"study_flow.{ending}" for ending in ("csv", "html", "md", "tex")
    ]


def test_resampled_values_are_those_of_pycocotools_and_are_kept(pool: Path) -> None:
    study = study_of(pool)
    for row in study.rows:
        for run, resampled in zip(row.runs, row.resampled, strict=True):
            results = json.loads((pool / run.folder / "evaluations" / "default" / "results.json").read_text())
            for kind in ("bbox", "segm"):
                assert resampled.values[f"{kind}.AP"] == pytest.approx(results[kind]["AP"], abs=1e-12)
    kept = list(pool.glob("*/evaluations/default/resamples-*-100-0.npz"))
    assert len(kept) == 8
    times = [path.stat().st_mtime_ns for path in kept]
    again = study_of(pool)
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert again.rows[1].comparison == study.rows[1].comparison
    # Another base turns the difference around.
    turned = study_of(pool, base="without")
    first, second = study.rows[1].comparison, turned.rows[0].comparison
    assert first is not None and second is not None
    assert first.difference == pytest.approx(-second.difference)
    assert first.on_images.low == pytest.approx(-second.on_images.high)


def test_changed_predictions_and_annotations_are_named_and_the_table_has_no_intervals(pool: Path) -> None:
    (row, *_) = read_rows(pool, "flow")
    predictions = pool / row.run / "evaluations" / "default" / "bbox.json"
    predictions.write_text("[]")
    study = study_of(pool)
    assert study.rows[0].comparison is None and not study.rows[0].resampled
    assert any(
        "bbox.json has AP 0.00" in remark and "one of the files was changed" in remark for remark in study.remarks
    )
    predictions.unlink()
    assert any("bbox.json is missing" in remark for remark in study_of(pool).remarks)
    for results in pool.glob("*/evaluations/default/results.json"):
        content = json.loads(results.read_text())
        results.write_text(json.dumps({**content, "annotation_file": "/nowhere.json"}))
    assert any("/nowhere.json cannot be read" in remark for remark in study_of(pool).remarks)


def test_rows_that_are_not_done_are_shown_with_the_command_that_makes_them(pool: Path) -> None:
    def change(rows: list[SelectedRun]) -> list[SelectedRun]:
        return [*rows, SelectedRun("htc-none-00000000", "later", overrides=["model=htc", "seed=3"])]

    change_rows(pool, "flow", change)
    text = markdown(study_sheet(study_of(pool)))
    assert "| later   | — |" in text
    assert "'later': `htc-none-00000000` is missing: `python -m htc.run model=htc seed=3`." in text


def test_runs_of_one_label_with_other_settings_are_rows_of_their_own(pool: Path) -> None:
    rows = read_rows(pool, "flow")
    mixed = [SelectedRun(row.run, "mixed", overrides=row.overrides) for row in rows]
    change_rows(pool, "flow", lambda _: mixed)
    study = study_of(pool)
    assert [row.label for row in study.rows] == ["mixed (model.mask_flow=true)", "mixed (model.mask_flow=false)"]
    assert any("Not averaged: the runs of 'mixed'" in remark for remark in study.remarks)


def test_unknown_base_and_metric_are_refused(pool: Path) -> None:
    with pytest.raises(UserError, match=r"base=wihtout is not a row of the sweep flow; did you mean without"):
        study_of(pool, base="wihtout")
    with pytest.raises(UserError, match=r"metric=segm is not one of"):
        study_of(pool, metric="segm")
    for wrong in ({"tables": "stdy"}, {"format": "pdf"}, {"intervals": "yes"}, {"resamples": "10"}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
            Choices.of({**DEFAULTS, **wrong})


def test_rows_are_compared_by_boundary_ap_on_request(pool: Path) -> None:
    study = study_of(pool, metric="boundary.AP")
    plain = study_of(pool)
    shown = [markdown(study_sheet(each)) for each in (plain, study)]
    assert "boundary AP" not in shown[0] and "boundary AP" in shown[1]
    assert "AP50 to APl are mask APs. Δ: difference in boundary AP to the row 'with'." in shown[1]
    for row, of_masks in zip(study.rows, plain.rows, strict=True):
        boundary, mask = row.stats["boundary_AP"], of_masks.stats["mask_AP"]
        assert boundary.n == 2 and 0 <= boundary.mean <= mask.mean
        assert row.stats["mask_AP"] == mask
    assert study.rows[1].comparison is not None
    assert study.rows[1].comparison.difference == pytest.approx(
        study.rows[1].stats["boundary_AP"].mean - study.rows[0].stats["boundary_AP"].mean
    )
    assert len(list(pool.glob("*/evaluations/default/resamples-boundary-100-0.npz"))) == 4
    without = study_of(pool, metric="boundary.AP", resampler=None)
    assert without.rows[1].delta == pytest.approx(study.rows[1].delta) and without.rows[1].comparison is None
    assert without.rows[1].stats == study.rows[1].stats and not without.rows[1].resampled


def test_damaged_resamples_are_made_again(pool: Path) -> None:
    first = study_of(pool)
    kept = sorted(pool.glob("*/evaluations/default/resamples-segm-100-0.npz"))
    whole = kept[0].read_bytes()
    for file, content in zip(kept, (b"", b"damaged", whole[:100], whole[:-50]), strict=True):
        file.write_bytes(content)
    assert study_of(pool).rows[1].comparison == first.rows[1].comparison
    assert kept[0].read_bytes()


def test_without_intervals_no_predictions_are_read(pool: Path) -> None:
    for path in pool.glob("*/evaluations/default/*.json"):
        if path.name != "results.json":
            path.unlink()
    study = study_of(pool, resampler=None)
    assert study.rows[1].delta is not None and "trained anew" not in markdown(study_sheet(study))


def test_metric_of_boxes_shows_the_columns_of_boxes(pool: Path) -> None:
    masks, boxes = (study_of(pool, resampler=None, metric=metric) for metric in ("segm.AP75", "bbox.AP75"))
    assert "AP50 to APl are mask APs" in markdown(study_sheet(masks)) and "AP50 to APl are box APs" in markdown(
        study_sheet(boxes)
    )
    results = json.loads((pool / boxes.rows[0].runs[0].folder / "evaluations/default/results.json").read_text())
    assert boxes.rows[0].runs[0].metrics["box_AP50"] == pytest.approx(100 * results["bbox"]["AP50"])
    header = csv(boxes).splitlines()[0].split(",")
    assert "box_AP50" in header and "mask_AP" in header and "mask_AP50" not in header
    of_rows = [row.stats["box_AP75"].mean for row in boxes.rows]
    assert boxes.rows[1].delta == pytest.approx(of_rows[1] - of_rows[0])


# Factorial


def simulated(effects: dict[tuple[bool, ...], float], seeds: int = 2, noise: float = 0.0) -> Study:
    """Return a study of all combinations of the ideas whose rows have these values, in percent."""
    random = np.random.default_rng(0)
    rows = []
    for level, value in effects.items():
        row = StudyRow(str(level))
        for seed in range(seeds):
            own = (value + random.normal(0, noise)) / 100
            settings = {**dict(zip(FACTORS, level, strict=True)), "model.semantic_fusion": "both" if level[2] else None}
            row.runs.append(Run(f"run{level}{seed}", "done", seed=seed, settings=settings, images=IMAGES))
            on_images = own + random.normal(0, 0.001, RESAMPLES)
            row.resampled.append(ResampledRun(dict.fromkeys(KEYS, own), dict.fromkeys(KEYS, on_images), IMAGES))
        rows.append(row)
    return Study("factorial", "segm.AP", rows, rows[0].label, IMAGES)


LEVELS = list(itertools.product((False, True), repeat=3))


def test_effects_of_an_additive_method_are_found_and_its_interactions_are_zero() -> None:
    additive = {level: 30 + 0.2 * level[0] + 0.6 * level[1] + 0.7 * level[2] for level in LEVELS}
    found = build_factorial(simulated(additive))
    assert found is not None and found.runs == 16
    by_name = {(each.kind, each.name): each.comparison.difference for each in found.effects}
    for name, value in (("interleaving", 0.2), ("mask flow", 0.6), ("semantic branch", 0.7)):
        assert by_name["main effect", name] == pytest.approx(value)
        assert by_name["share", name] == pytest.approx(value)
    assert [value for (kind, _), value in by_name.items() if kind == "interaction"] == pytest.approx([0] * 4, abs=1e-9)
    assert gain(found) == pytest.approx(1.5)


def test_shares_of_a_method_whose_ideas_need_each_other_do_not_depend_on_an_order() -> None:
    """A ladder gives the whole gain to whichever idea comes last."""
    together = {level: 30 + 2.0 * (level[0] and level[1]) for level in LEVELS}
    found = build_factorial(simulated(together))
    assert found is not None
    by_name = {(each.kind, each.name): each.comparison.difference for each in found.effects}
    assert by_name["share", "interleaving"] == pytest.approx(1.0)
    assert by_name["share", "mask flow"] == pytest.approx(1.0)
    assert by_name["share", "semantic branch"] == pytest.approx(0.0, abs=1e-9)
    assert by_name["interaction", "interleaving × mask flow"] == pytest.approx(1.0)


def test_sixteen_runs_tell_more_about_an_effect_than_a_ladder_of_twenty() -> None:
    weights = effect_weights(LEVELS, [1])
    assert sum(weights) == 0
    assert sum(weight**2 / 2 for weight in weights) == pytest.approx(0.25)
    assert pytest.approx(0.40) == 2 / 5
    assert sum(shapley_weights(LEVELS, 1)) == pytest.approx(0)


def test_effects_are_written_and_marked_where_they_are_real(tmp_path: Path) -> None:
    real = {level: 30 + 3.0 * level[1] for level in LEVELS}
    found = build_factorial(simulated(real, noise=0.1))
    assert found is not None
    text = write_factorial(found, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("| main effect") and "mask flow" in line]
    assert "*" in line and "[+2." in line
    (other,) = [line for line in text.splitlines() if line.startswith("| main effect") and "semantic" in line]
    assert "*" not in other
    assert len(list(tmp_path.iterdir())) == 4


def test_rows_that_are_no_factorial_have_no_effects() -> None:
    values = dict.fromkeys(LEVELS, 30.0)
    incomplete = simulated(values)
    incomplete.rows.pop()
    assert build_factorial(incomplete) is None
    third = simulated(values)
    third.rows[0].runs[0].settings["model.num_stages"] = 3
    for number, row in enumerate(third.rows):
        for run in row.runs:
            run.settings["model.num_stages"] = number
    assert build_factorial(third) is None
    alone = build_factorial(simulated(values, seeds=1))
    assert alone is not None and all(each.comparison.anew is None for each in alone.effects)


def test_latex_of_a_study_escapes_what_users_write(pool: Path) -> None:
    study = study_of(pool, resampler=None)
    study.rows[1].label = r"50% & $x_1$ \input{/etc/passwd} ±"
    text = latex(study_sheet(study))
    assert r"50\% \& \$x\_1\$ \textbackslash{}input\{/etc/passwd\} $\pm$" in text
