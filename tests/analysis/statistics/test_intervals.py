"""Intervals cover the truth as often as they say, for experiments with few seeds and a sample of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.statistics.intervals import (
    Comparison,
    SeedVariance,
    compare,
    holm,
    image_weights,
    percentile_interval,
    pooled_variance,
    satterthwaite,
    seeds_to_see,
    smallest_visible,
)

Array = np.ndarray[Any, Any]
IMAGES = 120
RESAMPLES = 400


def experiment(
    random: np.random.Generator, weights: Array, seeds: int, effect: float, of_seeds: float, of_images: float = 1.0
) -> Comparison:
    """Simulate two methods on common images; the value of a run is its mean over the images.

    Args:
        random: source of random numbers.
        weights: [R, images]
        seeds: number of runs of each method.
        effect: true difference.
        of_seeds: standard deviation between seeds, relative to what a run's own noise on the images makes.
        of_images: standard deviation of the difference between images, relative to the same.
    """
    common = random.normal(0, 3, IMAGES)
    own = random.normal(0, of_images, IMAGES)
    rows = []
    for sign in (0.5, -0.5):
        noise = random.normal(0, 1, (seeds, IMAGES))
        level = sign * effect + random.normal(0, of_seeds / np.sqrt(IMAGES), (seeds, 1))
        rows.append(level + common + sign * own + noise)
    values = [row.mean(axis=1) for row in rows]
    resampled = [row @ weights.T / IMAGES for row in rows]
    return compare(values[0], values[1], resampled[0], resampled[1], IMAGES)


@pytest.fixture(scope="module")
def weights() -> Array:
    return np.concatenate(list(image_weights(IMAGES, RESAMPLES))).astype(np.float64)


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize(("of_seeds", "of_images"), [(2.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_interval_of_methods_trained_anew_covers_the_difference_as_often_as_it_says(
    weights: Array, seeds: int, of_seeds: float, of_images: float
) -> None:
    random = np.random.default_rng(seeds)
    found = [experiment(random, weights, seeds, 0.3, of_seeds, of_images).anew for _ in range(1500)]
    covered = np.mean([each is not None and each.low <= 0.3 <= each.high for each in found])
    assert 0.93 <= covered <= 0.97


def test_images_alone_do_not_cover_what_another_seed_changes(weights: Array) -> None:
    random = np.random.default_rng(1)
    found = [experiment(random, weights, 3, 0.3, 1.0).on_images for _ in range(1000)]
    assert np.mean([each.low <= 0.3 <= each.high for each in found]) < 0.92


def test_interval_of_images_covers_the_difference_of_these_checkpoints(weights: Array) -> None:
    """Without a variance between seeds, both intervals have the same question."""
    random = np.random.default_rng(2)
    found = [experiment(random, weights, 3, 0.3, 0.0).on_images for _ in range(1000)]
    assert 0.93 <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= 0.97


def test_dropping_the_duplicates_of_a_resample_makes_intervals_too_narrow(weights: Array) -> None:
    """A mistake of a published tool: a resample without its duplicates is a subset of 63 % of the images."""
    random = np.random.default_rng(3)
    values = random.normal(0, 1, IMAGES)
    right = percentile_interval(weights @ values / IMAGES)
    kept = weights > 0
    wrong = percentile_interval((kept @ values) / kept.sum(axis=1))
    ratio = (wrong.high - wrong.low) / (right.high - right.low)
    assert 0.7 <= ratio <= 0.87


def test_one_run_of_a_row_takes_the_variance_of_the_others(weights: Array) -> None:
    random = np.random.default_rng(4)
    values = random.normal(0, 1, (4, IMAGES))
    one, three = values[:1], values[1:]
    arguments = (one.mean(1), three.mean(1), one @ weights.T / IMAGES, three @ weights.T / IMAGES, IMAGES)
    assert compare(*arguments).anew is None
    pooled = pooled_variance([np.array([0.1]), np.array([0.0, 0.2]), np.array([0.1, 0.3, 0.5])])
    assert pooled is not None and pooled.degrees == 3
    assert pooled.value == pytest.approx((0.02 + 2 * 0.04) / 3)
    found = compare(*arguments, pooled=pooled)
    assert found.anew is not None and found.anew.high - found.anew.low > found.on_images.high - found.on_images.low


def test_equal_runs_have_no_difference(weights: Array) -> None:
    values = np.random.default_rng(5).normal(0, 1, (3, IMAGES))
    resampled = values @ weights.T / IMAGES
    found = compare(values.mean(1), values.mean(1), resampled, resampled, IMAGES)
    assert found.difference == 0 and not found.on_images.excludes_zero
    assert found.on_images.p_value == 1
    assert found.anew is not None and found.anew.p_value == 1


def test_degrees_of_freedom_are_those_of_welch_without_images() -> None:
    first, second = np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.1, 0.3, 0.2])
    # scipy.stats.ttest_ind(first, second, equal_var=False).df, which older versions of SciPy do not tell.
    expected = 2.0214472937380026
    components = [(row.var(ddof=1) / len(row), len(row) - 1) for row in (first, second)]
    assert satterthwaite(components) == pytest.approx(expected)


def test_p_values_are_adjusted_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_resamples_draw_each_image_as_often_as_there_are_images() -> None:
    chunks = list(image_weights(50, 600, seed=1))
    weights = np.concatenate(chunks)
    assert weights.shape == (600, 50) and (weights.sum(axis=1) == 50).all()
    assert not np.array_equal(chunks[0], chunks[1])
    np.testing.assert_array_equal(weights[:256], next(image_weights(50, 300, seed=1)))


@pytest.mark.parametrize("seeds", [3, 5])
def test_smallest_visible_difference_is_found_in_four_of_five_experiments(weights: Array, seeds: int) -> None:
    random = np.random.default_rng(6)
    errors = [experiment(random, weights, seeds, 0.0, 2.0) for _ in range(300)]
    error = np.sqrt(np.mean([(each.standard_error or 0) ** 2 for each in errors]))
    degrees = np.mean([each.anew.degrees or 0 for each in errors if each.anew is not None])
    visible = smallest_visible(float(error), float(degrees))
    found = [experiment(random, weights, seeds, visible, 2.0).anew for _ in range(800)]
    # With three seeds, the degrees of freedom are an estimate, too, and its spread costs some power.
    assert (0.65 if seeds == 3 else 0.74) <= np.mean([each is not None and each.low > 0 for each in found]) <= 0.88


def test_more_seeds_show_a_smaller_difference_until_the_images_limit_it() -> None:
    seed = SeedVariance(0.04, 4)
    assert seeds_to_see(1.0, seed, 0.001) == 3
    several = seeds_to_see(0.2, seed, 0.001)
    assert several is not None and several > 10
    assert seeds_to_see(0.2, seed, 0.02) is None
