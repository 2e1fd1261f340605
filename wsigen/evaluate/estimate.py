"""A number with its uncertainty: 95 % intervals by drawing halves of the samples.

Delete-half jackknife (Shao & Wu 1989, Ann. Stat. 17(3)): the spread of a statistic over random halves of the
n samples, drawn without replacement, is the standard error of the statistic on all n (for a mean exactly:
s²/m (1 - m/n) = s²/n at m = n/2). Unlike the bootstrap it makes no duplicates, which would be neighbours at
distance 0 to precision and recall and would bias a Fréchet distance. The halves' own bias, from their smaller
number, is taken out: only their deviations from their mean count.

Patches of one slide are alike. Where labels of slides are given, halves of the *slides* are drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError

MIN_GROUPS = 4
"""From so many slides on, halves of slides are drawn; fewer have too few halves."""


class MeasureWarning(UserWarning):
    """A measure that does not mean quite what it says, and why; a report must show it."""


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
    sides: Sequence[int | Sequence[object] | np.ndarray],
    *,
    values: Sequence[float] | None = None,
    draws: int = 40,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> list[Estimate]:
    """Values of a statistic on all samples, with intervals from halves of them.

    Args:
        statistic: given one array of indices per side, returns one or more numbers.
        sides: for each set of samples (generated, real) their number, or one label (slide) per sample.
        values: the numbers on all samples, where they are known already. None: the statistic's.
        draws: how many halves are drawn, at least 2.
        seed: of the draws.
        bounds: the range of the statistic; intervals end there.

    Returns:
        One estimate per number of the statistic. A draw for which it is NaN does not count.

    Determinism: same arguments, same result.

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
    deviations = np.stack([_deviations(column) for column in halves.T], axis=1)
    low, high = np.clip(on_all + deviations, *bounds)
    method = f"{draws} random halves of " + ("slides" if all(map(_by_group, sides)) else "patches")
    return [Estimate(float(v), float(a), float(b), method) for v, a, b in zip(on_all, low, high, strict=True)]


def _deviations(values: np.ndarray) -> np.ndarray:
    """How far 95 % of the draws lie below and above their mean; those that are undefined do not count."""
    defined = values[np.isfinite(values)]
    if len(defined) < 2:
        return np.full(2, np.nan)
    return np.percentile(defined - defined.mean(), [2.5, 97.5])


def half(side: int | Sequence[object] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of a random half of the samples: of whole slides from 4 slides on, else of patches.

    Args:
        side: number of samples, or one label per sample.
        rng: source of the draw; it moves on.
    """
    if isinstance(side, int):
        return np.sort(rng.choice(side, side // 2, replace=False))
    if not _by_group(side):
        return half(len(side), rng)
    labels, member = np.unique(np.asarray(side), return_inverse=True)
    chosen = rng.choice(len(labels), len(labels) // 2, replace=False)
    return np.flatnonzero(np.isin(member, chosen))


def disjoint_halves(
    side: int | Sequence[object] | np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random half, as `half`, and the rest."""
    count = side if isinstance(side, int) else len(side)
    first = half(side, rng)
    return first, np.setdiff1d(np.arange(count), first)


def caution(message: str) -> None:
    """Warn of a measure that does not mean quite what it says."""
    warnings.warn(message, MeasureWarning, stacklevel=3)


def _by_group(side: int | Sequence[object] | np.ndarray) -> bool:
    return not isinstance(side, int) and len(np.unique(np.asarray(side))) >= MIN_GROUPS
