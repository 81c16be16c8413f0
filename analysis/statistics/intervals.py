"""Intervals of a difference between two rows of a table: on new images, and of the methods trained anew.

Two questions have two answers:

- *These checkpoints on new images*: the images of the validation set are a sample. The interval is the paired
  percentile bootstrap (Efron and Tibshirani 1993): all runs are evaluated on the same resamples of the images.
- *The methods, trained anew*: the seeds are a sample, too. The variance of a difference has three components, images
  and the seeds of either row, and Student's t has Satterthwaite's degrees of freedom (Biometrics 2(6), 1946).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LEVEL = 0.95
SIGNIFICANT = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a difference, in the unit of the values."""

    low: float
    high: float
    p_value: float
    """Two-sided; of the hypothesis that the difference is 0."""
    degrees: float | None = None
    """Satterthwaite's degrees of freedom; None for a bootstrap."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SeedVariance:
    """A variance between seeds, and its degrees of freedom."""

    value: float
    degrees: int


@dataclass(frozen=True)
class Comparison:
    """A difference of two rows, mean of the first minus mean of the second, or another weighted sum of means."""

    difference: float
    on_images: Interval
    """These checkpoints on new images."""
    anew: Interval | None
    """The methods, trained anew; None where no row of the table has several seeds."""
    standard_error: float | None
    """Of the difference, trained anew; None as above."""


def image_weights(images: int, resamples: int, seed: int = 0, chunk: int = 256) -> Iterator[Array]:
    """Yield how often each image is drawn, for some resamples at a time: [chunk, images] float32.

    Each resample draws `images` images with replacement.
    """
    random = np.random.default_rng(seed)
    shares = np.full(images, 1 / images)
    for start in range(0, resamples, chunk):
        yield random.multinomial(images, shares, size=min(chunk, resamples - start)).astype(np.float32)


def compare(
    first: Array, second: Array, first_resampled: Array, second_resampled: Array, images: int,
    pooled: SeedVariance | None = None, level: float = LEVEL,
) -> Comparison:  # fmt: skip
    """Compare two rows; see `contrast`, of which this is the one with the weights 1 and -1."""
    return contrast([first, second], [first_resampled, second_resampled], [1.0, -1.0], images, pooled, level)


def contrast(
    rows: Sequence[Array], resampled: Sequence[Array], weights: Sequence[float], images: int,
    pooled: SeedVariance | None = None, level: float = LEVEL, *, always_pooled: bool = False,
) -> Comparison:  # fmt: skip
    """Estimate a weighted sum of the means of rows, such as a difference of two of them.

    Args:
        rows: for each row, [n] the values of its runs, which differ in the seed.
        resampled: for each row, [n, R] the same on common resamples of the images.
        weights: weight of the mean of each row.
        images: number of images.
        pooled: variance between seeds in all rows, for rows that have a single run.
        level: probability that the intervals cover the true value.
        always_pooled: use `pooled` for all rows, as they are taken to vary alike.
    """
    estimate = float(sum(weight * row.mean() for weight, row in zip(weights, rows, strict=True)))
    on_resamples = sum(
        (weight * row.mean(axis=0) for weight, row in zip(weights, resampled, strict=True)), start=np.zeros(())
    )
    on_resamples = on_resamples[~np.isnan(on_resamples)]
    on_images = percentile_interval(on_resamples, level)
    seeds = [pooled if always_pooled else seed_variance(row) or pooled for row in rows]
    known = [seed for seed in seeds if seed is not None]
    if len(known) < len(rows):
        return Comparison(estimate, on_images, None, None)
    image_variance = float(on_resamples.var(ddof=1))
    shares = [weight**2 / len(row) for weight, row in zip(weights, rows, strict=True)]
    of_seeds = [(share * seed.value, seed.degrees) for share, seed in zip(shares, known, strict=True)]
    if always_pooled:
        of_seeds = [(sum(value for value, _ in of_seeds), known[0].degrees)]
    components = [(image_variance, images - 1), *of_seeds]
    # The variance between seeds is measured on the same images, so it contains what the images add to each run alone.
    counted_twice = sum(share * own_image_variance(row) for share, row in zip(shares, resampled, strict=True))
    variance = max(sum(value for value, _ in components) - counted_twice, image_variance)
    error = math.sqrt(variance)
    return Comparison(estimate, on_images, t_interval(estimate, error, satterthwaite(components), level), error)


def percentile_interval(resampled: Array, level: float = LEVEL) -> Interval:
    """Return the percentile interval of a difference from its values on resamples: [R]."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    # A resample with the observed difference counts for either side, so that the value is never 0.
    below, above = (
        ((resampled <= 0).sum() + 1) / (len(resampled) + 1),
        ((resampled >= 0).sum() + 1) / (len(resampled) + 1),
    )
    return Interval(float(low), float(high), float(min(1.0, 2 * min(below, above))))


def t_interval(difference: float, error: float, degrees: float, level: float = LEVEL) -> Interval:
    """Return Student's interval of a difference with this standard error."""
    from scipy import stats

    if error == 0:
        return Interval(difference, difference, float(difference == 0), degrees)
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, degrees))
    return Interval(difference - half, difference + half, p_value, degrees)


def seed_variance(values: Array) -> SeedVariance | None:
    """Return the variance between the runs of a row; None for one run."""
    return SeedVariance(float(values.var(ddof=1)), len(values) - 1) if len(values) > 1 else None


def pooled_variance(rows: Sequence[Array]) -> SeedVariance | None:
    """Return the variance between seeds over all rows; None where no row has several runs."""
    found = [variance for row in rows if (variance := seed_variance(row)) is not None]
    degrees = sum(each.degrees for each in found)
    return SeedVariance(sum(each.value * each.degrees for each in found) / degrees, degrees) if degrees else None


def own_image_variance(resampled: Array) -> float:
    """Return the variance over resamples that a run does not share with the other runs of its row: [n, R] -> number."""
    if len(resampled) < 2:
        return 0.0
    covariance = np.cov(resampled[:, ~np.isnan(resampled).any(axis=0)])
    n = len(covariance)
    shared = (covariance.sum() - np.trace(covariance)) / (n * (n - 1))
    return max(float(np.trace(covariance) / n - shared), 0.0)


def satterthwaite(components: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances, each with its degrees of freedom."""
    total = sum(value for value, _ in components)
    denominator = sum(value**2 / degrees for value, degrees in components)
    return total**2 / denominator if denominator else math.inf


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6(2), 1979)."""
    order = np.argsort(p_values)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def adjusted(comparisons: Sequence[Comparison | None]) -> list[float | None]:
    """Return the p-value of each difference with methods trained anew, adjusted for their number; None without one."""
    known = [(index, each.anew.p_value) for index, each in enumerate(comparisons) if each is not None and each.anew]
    found: list[float | None] = [None] * len(comparisons)
    for (index, _), p_value in zip(known, holm([value for _, value in known]), strict=True):
        found[index] = p_value
    return found


def is_significant(p_value: float | None) -> bool:
    """Return whether an adjusted p-value is known and below SIGNIFICANT."""
    return p_value is not None and p_value < SIGNIFICANT


def mark_of(comparison: Comparison | None, p_value: float | None) -> str:
    """Return `*` where a difference is significant, or `°` where it is so for these checkpoints alone.

    The latter is said only where the variance between seeds, and with it the p-value, is unknown.
    """
    if p_value is not None:
        return "*" if is_significant(p_value) else ""
    return "°" if comparison is not None and comparison.on_images.excludes_zero else ""


def smallest_visible(error: float, degrees: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the difference that an experiment with this standard error finds with the probability `power`."""
    from scipy import optimize, stats

    critical = stats.t.ppf((1 + level) / 2, degrees)
    # Under a true difference, the statistic has the noncentral t distribution.
    ratio = optimize.brentq(lambda shift: stats.nct.sf(critical, degrees, shift) - power, 0, 4 * critical + 10)
    return float(ratio) * error


def seeds_to_see(
    difference: float, seed: SeedVariance, image_variance: float, largest: int = 100, level: float = LEVEL
) -> int | None:
    """Return how many seeds per row show a difference with the probability POWER; None if none up to `largest` do.

    Args:
        difference: the difference to be seen.
        seed: variance between seeds.
        image_variance: variance of the difference over images, which more seeds do not reduce.
        largest: largest number of seeds that is tried.
        level: probability that the interval covers the true difference.
    """
    for n in range(2, largest + 1):
        of_seeds = 2 * seed.value / n
        degrees = satterthwaite([(image_variance, 1e6), (of_seeds, 2 * (n - 1))])
        if smallest_visible(math.sqrt(image_variance + of_seeds), degrees, level) <= difference:
            return n
    return None
