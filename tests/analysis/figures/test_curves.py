"""Curves over seeds: mean and band, long runs, many variants, and what is read from metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures import Group, losses_figure, read_history, training_figure
from analysis.figures.curves import POINTS, seed_curves
from analysis.figures.style import NAMED, OTHERS
from htc.errors import UserError
from tests.analysis.figures.readable import assert_readable, words_of


def history(variants: int, seeds: int, steps: int) -> pd.DataFrame:
    """Return training lines whose loss is `variant + seed`, and whose AP grows."""
    index = pd.MultiIndex.from_product(
        [[f"variant {each}" for each in range(variants)], range(seeds), range(10, 10 * steps + 1, 10)],
        names=["label", "seed", "step"],
    )
    frame = index.to_frame(index=False)
    number = frame["label"].str.split().str[-1].astype(float)
    return frame.assign(
        kind="train", loss=number + frame["seed"], lr=0.1, mask_AP=number + frame["step"],
        **{f"losses.s{stage}.loss_mask": 1.0 / (stage + 1) for stage in range(3)},
    )  # fmt: skip


def test_curve_is_the_mean_with_a_band_from_lowest_to_highest() -> None:
    curves = seed_curves(history(2, 3, 5), ["loss"])
    steps, mean, low, high = curves["variant 1", "loss"]
    assert steps.tolist() == [10, 20, 30, 40, 50]
    assert (mean == 2).all() and (low == 1).all() and (high == 3).all()


def test_seeds_that_logged_other_steps_are_shown_where_they_have_values() -> None:
    frame = history(1, 2, 4)
    frame = frame[(frame["seed"] == 0) | (frame["step"] != 20)]
    steps, mean, *_ = seed_curves(frame, ["loss"])["variant 0", "loss"]
    assert steps.tolist() == [10, 20, 30, 40]
    assert mean.tolist() == [0.5, 0.0, 0.5, 0.5]


def test_long_curves_are_averaged_over_equal_numbers_of_lines() -> None:
    frame = history(1, 2, 20 * POINTS)
    frame["loss"] = frame["step"] * 1.0
    steps, mean, low, high = seed_curves(frame, ["loss"])["variant 0", "loss"]
    assert len(steps) == POINTS and steps[-1] == 200 * POINTS
    # Each point is the mean over its 20 lines, the same for both seeds.
    np.testing.assert_allclose(mean, steps - 95)
    assert (low == high).all()


@pytest.mark.parametrize("width", [1, 2])
def test_figures_of_training_are_readable(group: Group, width: int) -> None:
    lines = read_history(group.variants)
    figure = training_figure(lines, width)
    assert_readable(figure)
    words = words_of(figure)
    assert all(each in words for each in ("total loss", "learning rate", "mask AP (%)", "box AP (%)", "none", "both"))
    figure = losses_figure(lines, width)
    assert_readable(figure)
    words = words_of(figure)
    assert words.index("class, stage 1") < words.index("class, stage 3") < words.index("mask, stage 1")
    assert "RPN objectness" in words and "semantic" not in words


def test_ten_thousand_lines_of_hundreds_of_variants_are_drawn_with_the_best_named() -> None:
    frame = history(300, 1, 40)
    figure = training_figure(frame)
    assert_readable(figure)
    words = words_of(figure)
    assert "variant 299" in words and "variant 0" not in words and "288 others" in words
    grey = [line for line in figure.axes[0].lines if line.get_color() == OTHERS]
    assert len(grey) == 300 - NAMED


def test_lines_are_read_once_and_damaged_ones_are_left_out(group: Group) -> None:
    variant = group.variants[0]
    path = variant.folder(variant.runs[0]) / "metrics.jsonl"
    before = path.read_text()
    repeated = '{"kind": "train", "step": 10, "loss": 77.0}\n'
    try:
        path.write_text(before + repeated + '{"kind": "train", "step": 20, "los\nnull\n[]\n{"kind": 3}\n')
        lines = read_history([variant])
    finally:
        path.write_text(before)
    of_run = lines[(lines["seed"] == 0) & (lines["kind"] == "train")]
    assert len(of_run) == 20
    # Of a step that was repeated after a resume, the last line counts.
    assert of_run.loc[of_run["step"] == 10, "loss"].item() == 77.0


def test_an_evaluation_at_the_end_alone_is_no_curve() -> None:
    frame = history(2, 2, 5)
    frame.loc[frame["step"] < 50, "mask_AP"] = np.nan
    assert "mask AP" not in words_of(training_figure(frame))


def test_runs_without_lines_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no lines of the training"):
        training_figure(read_history([]))
