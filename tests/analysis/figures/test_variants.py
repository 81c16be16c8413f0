"""Variants: rows of sweeps or settings, groups that may be compared, and what their training took."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.figures import component_steps, components_figure, cost_figure, read_groups, speed_figure
from analysis.figures.components import step_labels
from analysis.figures.style import OTHERS
from analysis.figures.variants import Group, Variant
from analysis.table_rows import Stat
from htc.errors import UserError
from tests.analysis.figures.conftest import LABELS
from tests.analysis.figures.readable import assert_readable, words_of
from tests.helpers.run_folders import WriteRun, run_writer


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def write_run(runs: Path) -> WriteRun:
    return run_writer(runs)


def test_variants_of_a_sweep_are_its_rows_in_order(pool: Path) -> None:
    (group,), complaints = read_groups(pool, "ideas")
    assert tuple(variant.label for variant in group.variants) == LABELS
    assert [[run.seed for run in variant.runs] for variant in group.variants] == [[0, 1]] * 4
    assert any("because it is failed" in complaint for complaint in complaints)
    assert group.variant("both").settings["model.interleaved"] is True
    with pytest.raises(UserError, match="there is no variant 'bot'; did you mean both"):
        group.variant("bot")


def test_costs_are_device_hours(pool: Path) -> None:
    (group,), _ = read_groups(pool, "ideas")
    # Half an hour on two devices, and the row of the settings after it twice that.
    assert group.variants[0].stats["device_hours"].mean == 1.0
    assert group.variants[1].stats["device_hours"].mean == 3.0
    assert group.variants[0].devices == "Example GPU"


def test_other_data_is_another_group(runs: Path, write_run: WriteRun) -> None:
    write_run(sweep="a")
    write_run(sweep="b", images=50, seed=1)
    groups, _ = read_groups(runs)
    assert [len(group.variants) for group in groups] == [1, 1]
    assert len({group.slug for group in groups}) == 2


def test_variants_without_a_sweep_have_the_names_of_the_tables(runs: Path, write_run: WriteRun) -> None:
    write_run(sweep=None, interleaved=True, mask_flow=False, semantic=True)
    write_run(sweep=None, name="mask_rcnn")
    (group,), _ = read_groups(runs)
    assert [variant.label.split(" (")[0] for variant in group.variants] == ["Mask R-CNN", "HTC w/o mask flow"]


def test_waterfall_adds_the_ideas_in_the_order_of_the_paper(group: Group) -> None:
    steps = component_steps(group.variants)
    assert [step.label for step in steps] == ["none", "interleaved", "both"]
    assert step_labels(steps) == ["none", "+ interleaving", "+ mask flow"]
    for width in (1, 2):
        figure = components_figure(steps, width)
        assert_readable(figure)
        values = [step.stats["mask_AP"].mean for step in steps]
        bars = [patch.get_width() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
        assert bars == pytest.approx([values[1] - values[0], values[2] - values[1]])
        assert f"{values[0]:.1f}" in words_of(figure)


def test_variants_that_are_no_series_are_refused(group: Group) -> None:
    with pytest.raises(UserError, match="no series"):
        component_steps(group.variants[1:3])


def test_tradeoffs_name_conditions_and_units(group: Group) -> None:
    for width in (1, 2):
        figure = speed_figure(group.variants, width)
        assert_readable(figure)
        assert "Example GPU_1, 2 threads, fp32" in words_of(figure)
        figure = cost_figure(group.variants, width)
        assert_readable(figure)
        assert "training, device-hours (Example GPU)" in words_of(figure)


def test_only_speeds_of_one_condition_are_compared(runs: Path, write_run: WriteRun) -> None:
    write_run(sweep="s", interleaved=True)
    write_run(sweep="s", interleaved=False)
    write_run(sweep="s", mask_flow=True, conditions={"device": "Other"})
    (group,), _ = read_groups(runs)
    assert len(group.variants) == 3
    figure = speed_figure(group.variants)
    assert len(figure.legends[0].get_texts()) == 2 and "Other" not in words_of(figure)


def test_hundreds_of_variants_are_points_and_the_best_are_named(group: Group) -> None:
    (base, *_) = group.variants
    many = [
        Variant(f"trial {index}", base.runs, base.pool, stats={**base.stats, "mask_AP": Stat(index / 10, None, 1)})
        for index in range(400)
    ]
    figure = speed_figure(many)
    assert_readable(figure)
    assert "trial 399" in words_of(figure) and "388 others" in words_of(figure)
    assert any(line.get_color() == OTHERS and len(line.get_xydata()) == 388 for line in figure.axes[0].lines)  # type: ignore[arg-type]


def test_unknown_speed_and_cost_are_one_sentence(runs: Path, write_run: WriteRun) -> None:
    write_run(sweep="s")
    (group,), _ = read_groups(runs)
    with pytest.raises(UserError, match="how long its training took"):
        cost_figure(group.variants)
    nothing = [Variant("a", group.variants[0].runs, runs)]
    with pytest.raises(UserError, match="images per second"):
        speed_figure(nothing)
