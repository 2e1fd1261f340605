"""Numbers with 95 % intervals, and measures whose warnings and failures reach the report.

Delete-half jackknife (Shao & Wu 1989, Ann. Stat. 17(3)): the standard deviation of a statistic over random
halves of the n samples, drawn without replacement, is the standard error of the statistic on all n (for a
mean exactly: s²/m (1 - m/n) = s²/n at m = n/2). Unlike the bootstrap it makes no duplicates, which would be
neighbours at distance 0 to precision and recall and would bias a Fréchet distance. The halves' own bias, from
their smaller number, is removed: only their deviations from their mean count.

Patches of one slide are alike. Where labels of slides are given, halves of the *slides* are drawn.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

from wsigen.errors import InvalidValueError

Value = TypeVar("Value")
Labels = Sequence[object] | np.ndarray  # One label (the slide or case) per sample

MIN_GROUPS = 4  # Halves of slides are drawn from this many slides on; fewer slides have too few halves


class MeasureWarning(UserWarning):
    """A reason why a measure means less than it seems to; a report must show it."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    Args:
        value: the measure on all samples.
        low: lower end of the interval.
        high: upper end of the interval.
        method: how the interval was found.
    """

    value: float
    low: float
    high: float
    method: str = ""

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def jackknife(
    statistic: Callable[..., Sequence[float] | np.ndarray],
    sides: Sequence[int | Labels],
    *,
    values: Sequence[float] | None = None,
    draws: int = 40,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> list[Estimate]:
    """Return the values of a statistic on all samples, with intervals from random halves of them.

    Args:
        statistic: given one array of indices per side, returns one or more numbers.
        sides: for each set of samples (generated, real) their number, or one label (slide) per sample.
        values: the numbers on all samples, where they are known already. None: the statistic's.
        draws: number of halves, at least 2. A draw for which the statistic is NaN does not count.
        seed: of the draws.
        bounds: range of the statistic, to which intervals are clipped.

    Raises:
        InvalidValueError: a side with fewer than 4 samples, or fewer than 2 draws.
    """
    sizes = [side if isinstance(side, int) else len(side) for side in sides]
    if min(sizes) < 4 or draws < 2:
        raise InvalidValueError(
            f"an interval needs at least 4 samples a side and 2 draws, got {sizes} and {draws}; "
            "take more patches"
        )
    rng = np.random.default_rng(seed)
    on_all = statistic(*(np.arange(n) for n in sizes)) if values is None else values
    on_all = np.atleast_1d(np.asarray(on_all, np.float64))
    halves = np.stack([np.atleast_1d(statistic(*(half(side, rng) for side in sides))) for _ in range(draws)])
    # the halves' bias, from their smaller number, stays out: only deviations from their mean count
    deviations = np.stack([_deviations(column) for column in halves.T], axis=1)
    low, high = np.clip(on_all + deviations, *bounds)
    method = f"{draws} random halves of " + ("slides" if all(map(_by_group, sides)) else "patches")
    return [Estimate(float(v), float(a), float(b), method) for v, a, b in zip(on_all, low, high, strict=True)]


def half(side: int | Labels, rng: np.random.Generator) -> np.ndarray:
    """Return sorted indices of a random half: of whole slides from 4 slides on, else of samples.

    Args:
        side: number of samples, or one label per sample.
        rng: source of the draw; its state advances.
    """
    if isinstance(side, int):
        return np.sort(rng.choice(side, side // 2, replace=False))
    if not _by_group(side):
        return half(len(side), rng)
    # patches of one slide are alike: half of the slides, whatever their numbers of patches
    labels, member = np.unique(np.asarray(side), return_inverse=True)
    chosen = rng.choice(len(labels), len(labels) // 2, replace=False)
    return np.flatnonzero(np.isin(member, chosen))


def sample_labels(samples: Sequence | np.ndarray, labels: Labels | None) -> int | np.ndarray:
    """Return the labels of the samples, or the number of samples where there are no labels.

    Raises:
        InvalidValueError: labels and samples differ in number.
    """
    if labels is None:
        return len(samples)
    if len(labels) != len(samples):
        raise InvalidValueError(f"one slide label per sample is needed, got {len(labels)} for {len(samples)}")
    return np.asarray(labels)


def mean_over_groups(
    values: np.ndarray, groups: Sequence[str], within: np.ndarray | None = None
) -> list[Estimate]:
    """Average numbers over groups (slides, cases), with Student's 95 % interval.

    Each group counts the same. Of a single group, its own values count; of a single value, only ``within``.

    Args:
        values: (n, k), or (n,) for one number; n ≥ 1.
        groups: of each row.
        within: standard error of each row by itself, of the shape of ``values``.
    """
    rows = np.asarray(values, np.float64).reshape(len(groups), -1)
    own = np.zeros_like(rows) if within is None else np.asarray(within, np.float64).reshape(rows.shape)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    several = len(names) > 1
    means = np.stack([rows[member == g].mean(axis=0) for g in range(len(names))]) if several else rows
    count = len(means)
    centre = means.mean(axis=0)
    # Student's factor covers few groups; errors within rows add in squares, with the normal's factor
    error = means.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.zeros(means.shape[1])
    half_width = np.hypot(_student(count) * error, _student(math.inf) * np.sqrt((own**2).sum(0)) / len(rows))
    method = f"{count} slides or cases" if several else f"{count} places on one slide or case"
    return [
        Estimate(float(c), float(c - h), float(c + h), method)
        for c, h in zip(centre, half_width, strict=True)
    ]


def percentage(hits: int, of: int) -> Estimate:
    """Return ``hits`` as a percentage of ``of`` ≥ 1, with Wilson's interval (1927)."""
    ends = binomtest(hits, of).proportion_ci(method="wilson")
    return Estimate(100 * hits / of, 100 * ends.low, 100 * ends.high, "Wilson's interval")


def caution(message: str) -> None:
    """Warn that a measure means less than it seems to."""
    warnings.warn(message, MeasureWarning, stacklevel=3)


def run_measure(measure: Callable[[], Value]) -> tuple[Value | None, tuple[str, ...]]:
    """Run a measure; return its value and its warnings.

    Args:
        measure: may warn with `MeasureWarning`, or fail with `InvalidValueError`.

    Returns:
        The value, or None where the measure failed; and the different warnings, the failure last.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasureWarning)
        try:
            value, failure = measure(), []
        except InvalidValueError as error:
            value, failure = None, [f"not measured: {error}"]
    messages = [str(w.message) for w in caught if issubclass(w.category, MeasureWarning)]
    # warnings of other kinds are not the report's: pass them on
    for other in caught:
        if not issubclass(other.category, MeasureWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return value, different([*messages, *failure])


def different(messages: Iterable[str]) -> tuple[str, ...]:
    """Return the messages in order; of those that differ in numbers alone, the first."""
    found: dict[str, str] = {}
    for message in messages:
        # the same warning comes from every half, each with its own numbers
        found.setdefault(re.sub(r"[\d.]+", "#", message), message)
    return tuple(found.values())


def _deviations(values: np.ndarray) -> np.ndarray:
    """Return how far 95 % of the draws lie below and above their mean."""
    defined = values[np.isfinite(values)]
    if len(defined) < 2:
        return np.full(2, np.nan)
    return np.percentile(defined - defined.mean(), [2.5, 97.5])


def _student(count: float) -> float:
    """Return how many standard errors a 95 % interval reaches."""
    return float(student.ppf(0.975, max(1.0, count - 1)))


def _by_group(side: int | Labels) -> bool:
    return not isinstance(side, int) and len(np.unique(np.asarray(side))) >= MIN_GROUPS
