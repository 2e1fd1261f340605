"""Distance between two sets of images by their features: Fréchet distance and kernel distance (FID, KID).

With the features of torch-fidelity's Inception these are the published FID and KID; with other features they
are the same formulae, and the numbers compare with nothing but themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import Estimate, caution, disjoint_halves, jackknife

Labels = Sequence[object] | np.ndarray
"""One label (the slide) per sample."""


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features, in float64.

    Heusel et al. 2017, eq. 6: |μ_1 - μ_2|² + tr(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^½), with unbiased covariances. With
    Σ_i = A_i A_iᵀ the last trace is the sum of the singular values of A_1ᵀ A_2, which needs no matrix root
    and holds for singular Σ too.

    Args:
        generated: features (n, d), n ≥ 2.
        real: features (m, d), m ≥ 2.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        InvalidValueError: the two do not have one number of dimensions, fewer than two samples, or a number
            that is not finite.

    Warns:
        MeasureWarning: fewer samples than dimensions: the covariances are singular and the distance is biased
            upwards; compare it only with sets of equal numbers.
    """
    generated, real = as_features(generated, real)
    dimensions, fewest = generated.shape[1], min(len(generated), len(real))
    if fewest <= dimensions:
        caution(
            f"Fréchet distance from {fewest} samples in {dimensions} dimensions is biased upwards; "
            f"compare it only with sets of the same numbers, or take more than {dimensions} patches a side"
        )
    return _frechet(generated, real)


def fid(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Estimate:
    """`frechet_distance` with its 95 % interval.

    Args:
        generated: features (n, d).
        real: features (m, d).
        generated_slides: one label per generated sample, so that halves of slides are drawn.
        real_slides: the same for the real ones.
        draws: halves drawn for the interval.
        seed: of the draws.
    """
    value = frechet_distance(generated, real)
    generated, real = as_features(generated, real)
    sides = (sample_labels(generated, generated_slides), sample_labels(real, real_slides))
    estimate = jackknife(
        lambda i, j: [_frechet(generated[i], real[j])],
        sides,
        values=[value],
        draws=draws,
        seed=seed,
        bounds=(0, np.inf),
    )
    return estimate[0]


def polynomial_mmd(generated: np.ndarray, real: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel k(x, y) = (xᵀy/d + 1)³, unbiased.

    Bińkowski et al. 2018, section 4 and Gretton et al. 2012, lemma 6: the mean of k over distinct pairs
    within either set, less twice its mean between them. Unbiased whatever the number of samples, so it can be
    slightly negative for equal distributions.

    Args:
        generated: features (n, d), n ≥ 2.
        real: features (m, d), m ≥ 2.

    Memory: three matrices n × n, n × m, m × m of float64.
    """
    x, y = as_features(generated, real)
    return _within(x) + _within(y) - 2 * float(_kernel(x, y).mean())


def kid(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Estimate:
    """Kernel distance as published: the mean of `polynomial_mmd` over random subsets, with a 95 % interval.

    Args:
        generated: features (n, d).
        real: features (m, d).
        subsets: how many subsets are averaged.
        subset_size: samples per subset and side, without replacement; fewer where there are fewer. The value
            is unbiased for any size.
        generated_slides: one label per generated sample.
        real_slides: the same for the real ones.
        draws: halves drawn for the interval.
        seed: of subsets and draws.
    """
    generated, real = as_features(generated, real)
    size = min(subset_size, len(generated), len(real))
    rng = np.random.default_rng(seed)

    def one_subset(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [polynomial_mmd(generated[_some(i, size, rng)], real[_some(j, size, rng)])]

    everything = np.arange(len(generated)), np.arange(len(real))
    repeats = 1 if size == len(generated) == len(real) else subsets
    value = float(np.mean([one_subset(*everything) for _ in range(repeats)]))
    sides = (sample_labels(generated, generated_slides), sample_labels(real, real_slides))
    return jackknife(one_subset, sides, values=[value], draws=draws, seed=seed)[0]


def real_floor(
    measure: Callable[[np.ndarray, np.ndarray], float],
    real: np.ndarray,
    *,
    slides: Labels | None = None,
    size: int | None = None,
    draws: int = 10,
    seed: int = 0,
) -> Estimate:
    """What a measure gives between real and real: the value a perfect generator would get.

    The mean over random splits of the real samples into two disjoint halves (halves of slides from 4 slides
    on, so that the floor includes how much slides differ), with the range that 95 % of the splits lie in. A
    biased measure depends on the number of samples: give ``size`` and use as many generated ones.

    Args:
        measure: of two arrays of features, such as `frechet_distance`.
        real: features (n, d).
        slides: one label per sample.
        size: samples per half; None: all.
        draws: how many splits.
        seed: of the splits.

    Determinism: same arguments, same result.

    Raises:
        InvalidValueError: fewer than 4 samples, or fewer than ``size`` in a half.
    """
    rng = np.random.default_rng(seed)
    side = sample_labels(real, slides)
    values = []
    for _ in range(draws):
        halves = disjoint_halves(side, rng)
        fewest = min(map(len, halves))
        if fewest < max(2, size or 0):
            raise InvalidValueError(
                f"a floor of {size or 2} samples a side needs twice as many real ones, "
                f"half of these are {fewest}"
            )
        values.append(measure(*(real[_some(h, size or len(h), rng)] for h in halves)))
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high), f"{draws} splits of the real samples")


def as_features(*sets: np.ndarray) -> list[np.ndarray]:
    """The sets as float64 (n, d), checked: one d, at least two samples each, finite."""
    arrays = [np.asarray(s, np.float64) for s in sets]
    if any(a.ndim != 2 or len(a) < 2 for a in arrays) or len({a.shape[1] for a in arrays}) > 1:
        raise InvalidValueError(
            "features must be (samples ≥ 2, dimensions), equal in dimensions, "
            f"got {[a.shape for a in arrays]}"
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise InvalidValueError(
            "features must be finite, got NaN or infinity; look at the extractor or its weights"
        )
    return arrays


def sample_labels(features: np.ndarray, slides: Labels | None) -> int | np.ndarray:
    """The slides of the samples, checked for their number; without them, the number of samples."""
    if slides is None:
        return len(features)
    if len(slides) != len(features):
        raise InvalidValueError(
            f"one slide label per sample is needed, got {len(slides)} for {len(features)}"
        )
    return np.asarray(slides)


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    roots = []
    for features in (x, y):
        centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
        roots.append(np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred)
    difference = x.mean(0) - y.mean(0)
    traces = sum(float(np.square(root).sum()) for root in roots)
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(difference @ difference) + traces - 2 * shared)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: np.ndarray) -> float:
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _some(indices: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return indices if count >= len(indices) else rng.choice(indices, count, replace=False)
