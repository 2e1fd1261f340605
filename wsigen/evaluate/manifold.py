"""Fidelity and diversity apart: improved precision and recall, density and coverage.

A set of features stands for a manifold: the union of balls around its samples, each as large as the distance
to its k-th nearest neighbour in the set. Precision asks how many generated samples lie on the real manifold
(do they look real), recall how many real ones lie on the generated one (is everything there).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.fidelity import Labels, as_features, sample_labels

_ROWS = 512


@dataclass(frozen=True)
class Manifold:
    """Precision, recall, density and coverage of a generated set.

    Args:
        precision: Kynkäänniemi et al. 2019, eq. 1 and 2: share of generated samples within the real manifold.
        recall: share of real samples within the generated manifold.
        density: Naeem et al. 2020, eq. 4: how many real balls hold a generated sample, on average, divided by
            k; 1 for equal distributions, above 1 where generated samples crowd where real ones are dense.
            Unlike precision, it is not fooled by a single outlier with a large ball.
        coverage: Naeem et al. 2020, eq. 6: share of real balls that hold a generated sample; towards 1 - 2⁻ᵏ
            for equal distributions of equal number.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    k: int = 3,
    k_density: int = 5,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Manifold:
    """All four measures with 95 % intervals.

    All of them depend on the numbers of samples: compare only sets of equal numbers. Intervals are the
    deviations that halves show around their mean.

    Args:
        generated: features (n, d), n > 2 k + 1.
        real: features (m, d), m > 2 k + 1.
        k: neighbourhood of precision and recall; 3 as published.
        k_density: neighbourhood of density and coverage; 5 as published.
        generated_slides: one label per generated sample, so that halves of slides are drawn.
        real_slides: the same for the real ones.
        draws: halves drawn for the intervals.
        seed: of the draws.

    Memory: three matrices of distances, n × n, m × m and n × m, in float32 (2000 a side: 48 MB).

    Raises:
        InvalidValueError: too few samples for k, or features that are not comparable.
    """
    generated, real = as_features(generated, real)
    largest, fewest = max(k, k_density), min(len(generated), len(real))
    if min(k, k_density) < 1 or fewest < 2 * largest + 2:
        raise InvalidValueError(
            f"k = {k}, {k_density} neighbours need at least {2 * largest + 2} samples a side, got {fewest}"
        )
    within = pairwise_distances(generated, generated), pairwise_distances(real, real)
    between = pairwise_distances(generated, real)

    def all_four(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        if min(len(i), len(j)) <= largest:  # halves of slides that differ in their numbers of patches
            return np.full(4, np.nan)
        own = within[0][np.ix_(i, i)], within[1][np.ix_(j, j)]
        return _four(*own, between[np.ix_(i, j)], k, k_density)

    sides = sample_labels(generated, generated_slides), sample_labels(real, real_slides)
    estimates = jackknife(all_four, sides, draws=draws, seed=seed, bounds=(0, np.inf))
    capped = [
        Estimate(e.value, e.low, min(e.high, top), e.method)
        for e, top in zip(estimates, (1, 1, np.inf, 1), strict=True)
    ]
    return Manifold(*capped)


def pairwise_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances between all pairs, computed in float64 and returned as float32 (n, m).

    Args:
        x: features (n, d).
        y: features (m, d).

    Memory: 4 bytes per pair.
    """
    centre = y.mean(0)  # keeps |x|² + |y|² - 2 xᵀy accurate where the features are far from 0
    x, y = np.asarray(x - centre, np.float64), np.asarray(y - centre, np.float64)
    lengths, found = np.square(y).sum(1), np.empty((len(x), len(y)), np.float32)
    for start in range(0, len(x), _ROWS):
        some = x[start : start + _ROWS]
        squares = np.square(some).sum(1)[:, None] + lengths - 2 * (some @ y.T)
        found[start : start + _ROWS] = np.sqrt(np.maximum(squares, 0))
    return found


def _four(gg: np.ndarray, rr: np.ndarray, gr: np.ndarray, k: int, k_density: int) -> np.ndarray:
    """From the distances within generated, within real and between them."""
    precision = (gr <= _radius(rr, k)).any(axis=1).mean()
    recall = (gr <= _radius(gg, k)[:, None]).any(axis=0).mean()
    inside = gr < _radius(rr, k_density)
    return np.array([precision, recall, inside.sum(axis=1).mean() / k_density, inside.any(axis=0).mean()])


def _radius(distances: np.ndarray, k: int) -> np.ndarray:
    """Distance of each sample to its k-th nearest neighbour; the nearest of all is the sample itself."""
    return np.partition(distances, k, axis=1)[:, k]
