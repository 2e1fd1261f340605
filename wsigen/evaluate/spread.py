"""Means over slides with their intervals, where there are too few slides to draw halves of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from wsigen.evaluate.estimate import Estimate

LEVEL = 0.95


def mean_over_groups(
    values: np.ndarray, groups: Sequence[str], within: np.ndarray | None = None
) -> list[Estimate]:
    """Means of one or more numbers over groups (slides, cases), with Student's 95 % interval.

    Each group counts as much. Of a single group, its own values count; of a single value, only ``within``.

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
    half = np.hypot(
        _student(count) * _error(means), _student(math.inf) * np.sqrt((own**2).sum(0)) / len(rows)
    )
    method = f"{count} slides or cases" if several else f"{count} places on one slide or case"
    return [Estimate(float(c), float(c - h), float(c + h), method) for c, h in zip(centre, half, strict=True)]


def _error(means: np.ndarray) -> np.ndarray:
    if len(means) < 2:
        return np.zeros(means.shape[1])
    return means.std(axis=0, ddof=1) / math.sqrt(len(means))


def _student(count: float) -> float:
    """How many standard errors a 95 % interval reaches."""
    return float(student.ppf(0.5 + LEVEL / 2, max(1.0, count - 1)))
