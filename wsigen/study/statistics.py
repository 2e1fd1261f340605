"""Statistics of reader studies: Wilson intervals, AUC, Fleiss' κ, bootstrap over readers and items.

Arrays are readers × items; NaN where a reader has not answered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm, rankdata

BOOTSTRAP = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


NONE = Interval(math.nan, math.nan, math.nan)


def wilson(right: int, count: int) -> Interval:
    """Return a share with its Wilson score interval (Wilson 1927)."""
    if count == 0:
        return NONE
    found = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return Interval(right / count, float(found.low), float(found.high))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the probability that a positive scores above a negative, ties by half (Mann & Whitney 1947).

    Args:
        positive: scores (n,).
        negative: scores (m,).
    """
    if not len(positive) or not len(negative):
        return math.nan
    ranks = rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def fleiss_kappa(counts: np.ndarray) -> float:
    """Return the agreement of readers beyond chance (Fleiss 1971); 1 is perfect, 0 that of chance.

    Items may have been judged by different numbers of readers, at least 2; each counts the same.

    Args:
        counts: how many readers put each item into each category, (items, categories).
    """
    readers = counts.sum(axis=1)
    counts, readers = counts[readers >= 2], readers[readers >= 2]
    if not len(counts):
        return math.nan
    agreement = ((counts**2).sum(axis=1) - readers) / (readers * (readers - 1))
    by_chance = ((counts / readers[:, None]).mean(axis=0) ** 2).sum()
    return math.nan if by_chance == 1 else float((agreement.mean() - by_chance) / (1 - by_chance))


def kappa_interval(counts: np.ndarray, seed: int) -> Interval:
    """Return Fleiss' κ with a bootstrap interval over items.

    Args:
        counts: (items, categories).
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(counts), (BOOTSTRAP, len(counts)))
    return _percentiles(fleiss_kappa(counts), np.array([fleiss_kappa(counts[i]) for i in drawn]))


def pooled_share(right: np.ndarray, seed: int) -> Interval:
    """Return the share of right answers with a bootstrap interval over readers and items (Owen 2007).

    Args:
        right: 1, 0 or NaN, (readers, items).
        seed: of the bootstrap.
    """
    given = ~np.isnan(right)
    if not given.any():
        return NONE
    ones = np.where(given, right, 0.0)
    readers, items = _weights(right.shape, seed)
    drawn = np.einsum("br,ri,bi->b", readers, ones, items, optimize=True)
    total = np.einsum("br,ri,bi->b", readers, given.astype(float), items, optimize=True)
    return _percentiles(float(np.nanmean(right)), drawn[total > 0] / total[total > 0])


def pooled_auc(scores: np.ndarray, positive: np.ndarray, seed: int) -> Interval:
    """Return the mean AUC of readers with a bootstrap interval over readers and items.

    Args:
        scores: (readers, items), NaN where there is none.
        positive: bool (items,).
        seed: of the bootstrap.
    """
    each = [auc(*_split(row, positive)) for row in scores]
    if np.isnan(each).all():
        return NONE
    readers, items = _weights(scores.shape, seed)
    above = np.zeros((len(items), len(scores)))
    pairs = np.zeros_like(above)
    for r, row in enumerate(scores):
        p, n = (np.flatnonzero(side & ~np.isnan(row)) for side in (positive, ~positive))
        wins = (row[p][:, None] > row[n]) + 0.5 * (row[p][:, None] == row[n])
        above[:, r] = np.einsum("bi,ij,bj->b", items[:, p], wins, items[:, n], optimize=True)
        pairs[:, r] = items[:, p].sum(axis=1) * items[:, n].sum(axis=1)
    usable = readers * (pairs > 0)
    values = np.divide(above, pairs, out=np.zeros_like(above), where=pairs > 0)
    total = usable.sum(axis=1)
    drawn = (usable * values).sum(axis=1)[total > 0] / total[total > 0]
    return _percentiles(float(np.nanmean(each)), drawn)


def auc_interval(scores: np.ndarray, positive: np.ndarray, seed: int) -> Interval:
    """Return the AUC of one reader with a bootstrap interval over items; see `pooled_auc`."""
    return pooled_auc(scores[None], positive, seed)


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """Return the difference of two shares, second less first, with Newcombe's interval (1998, method 10).

    Args:
        first: 1 or 0, (n,).
        second: 1 or 0, (m,).
    """
    if not len(first) or not len(second):
        return NONE
    a, b = (wilson(int(x.sum()), len(x)) for x in (first, second))
    low = math.hypot(b.value - b.low, a.high - a.value)
    high = math.hypot(b.high - b.value, a.value - a.low)
    middle = b.value - a.value
    return Interval(middle, middle - low, middle + high)


def answers_needed(share: float, half: float = 0.1) -> int:
    """Return how many answers make the Wilson interval of a share at most ``2 * half`` wide.

    Args:
        share: expected, 0 to 1.
        half: width on either side.
    """
    z = float(norm.ppf(0.5 + LEVEL / 2))

    def width(n: int) -> float:
        return z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)

    n = 1
    while width(n) > half:
        n += 1
    return n


def _split(row: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    given = ~np.isnan(row)
    return row[given & positive], row[given & ~positive]


def _weights(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each reader and each item is drawn, (`BOOTSTRAP`, n); a single reader always once."""
    rng = np.random.default_rng(seed)
    readers, items = (rng.multinomial(n, np.full(n, 1 / n), BOOTSTRAP).astype(float) for n in shape)
    return readers, items


def _percentiles(value: float, drawn: np.ndarray) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn) or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
