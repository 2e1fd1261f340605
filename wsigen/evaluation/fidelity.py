"""Distance and overlap of two sets of images by their features.

Fréchet and kernel distance (FID, KID) compare the sets as wholes. Precision, recall, density and coverage
compare manifolds: the union of balls around the samples, each as large as the distance to the k-th nearest
neighbour in its set. Precision asks how many generated samples lie on the real manifold (do they look real),
recall how many real ones lie on the generated manifold (is everything there).

With the features of torch-fidelity's Inception the distances are the published FID and KID; with other
features they are the same formulae, and the numbers compare with nothing but themselves. torch-fidelity's own
functions are not called: its matrix root loses digits on singular covariances, and it draws KID's subsets by
a seed of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.estimate import Estimate, Labels, caution, jackknife, sample_labels
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import ANY, Metric

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches

SUBSETS = 20  # Subsets of KID in the report
_ROWS = 512  # Rows of distances at once, so that float64 is needed for these alone

_fidelity, _diversity = partial(Metric, "fidelity"), partial(Metric, "diversity")
FID = _fidelity(
    "fid",
    "Fréchet distance",
    "lower",
    good="as low as between two halves of the real slides: means and covariances of features agree",
    source="Heusel et al. 2017, eq. 6; with Inception's features it is the FID, and of crops of whole "
    "slides, as here, the crop-FID of Harb et al. 2024",
)
KID = _fidelity(
    "kid",
    "Kernel distance",
    "lower",
    good="as low as between real and real, about 0; it is unbiased, so few patches do not raise it",
    source="Bińkowski et al. 2018, section 4",
    bounds=ANY,
    bad=np.inf,
)
PRECISION = _fidelity(
    "precision",
    "Precision",
    "higher",
    good="as high as between real and real: the share of the patches that lies among real ones",
    source="Kynkäänniemi et al. 2019, eq. 1 and 2, k = 3",
    bounds=(0.0, 1.0),
)
DENSITY = _fidelity(
    "density",
    "Density",
    "higher",
    good="about 1, as between real and real: patches lie where real ones are dense, not at outliers",
    source="Naeem et al. 2020, eq. 4, k = 5",
)
RECALL = _diversity(
    "recall",
    "Recall",
    "higher",
    good="as high as between real and real: the share of the real patches that lies among the set's",
    source="Kynkäänniemi et al. 2019, eq. 1 and 2, k = 3",
    bounds=(0.0, 1.0),
)
COVERAGE = _diversity(
    "coverage",
    "Coverage",
    "higher",
    good="as high as between real and real: the share of real patches with a patch of the set close by",
    source="Naeem et al. 2020, eq. 6, k = 5",
    bounds=(0.0, 1.0),
)
OVERLAP = (PRECISION, DENSITY, RECALL, COVERAGE)
METRICS = (FID, KID, *OVERLAP)


def fidelity_rows(c: Comparison[Patches]) -> list[Result]:
    """Compare by Fréchet and kernel distance, precision, density, recall and coverage.

    Patches are crops of whole slides at one µm/px: with Inception's features the Fréchet distance is what
    Harb et al. 2024 call crop-FID, at every µm/px that the slides have, however much finer than their
    overview.
    """
    every, ours, theirs = c.reals.every.features, c.ours.features, c.theirs.features
    labels = {"generated_slides": c.ours.groups, "real_slides": c.theirs.groups, "seed": c.seed}
    floors = c.reals.floor("fid", lambda i, j: [frechet_distance(every[i], every[j])], (0, np.inf))
    rows = c.rows([FID], lambda: [fid(ours, theirs, **labels)], floors)
    floors = c.reals.floor("kid", lambda i, j: [polynomial_mmd(every[i], every[j])])
    rows += c.rows([KID], lambda: [kid(ours, theirs, subsets=SUBSETS, **labels)], floors)
    floors = c.reals.floor(
        "overlap", lambda i, j: [e.value for e in overlap(every[i], every[j], draws=2)], (0, np.inf)
    )
    return rows + c.rows(OVERLAP, lambda: overlap(ours, theirs, **labels), floors)


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the Fréchet distance of two Gaussians fitted to features, in float64.

    Heusel et al. 2017, eq. 6: |μ_1 - μ_2|² + tr(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^½), with unbiased covariances. With
    Σ_i = A_i A_iᵀ the last trace is the sum of the singular values of A_1ᵀ A_2, which needs no matrix root
    and holds for singular Σ too.

    Args:
        generated: features (n, d), n ≥ 2.
        real: features (m, d), m ≥ 2.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        InvalidValueError: the two differ in dimensions, have fewer than two samples, or are not finite.

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
    """Return `frechet_distance` with its 95 % interval.

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
    sides = sample_labels(generated, generated_slides), sample_labels(real, real_slides)
    return jackknife(
        lambda i, j: [_frechet(generated[i], real[j])],
        sides,
        values=[value],
        draws=draws,
        seed=seed,
        bounds=(0, np.inf),
    )[0]


def polynomial_mmd(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy with the kernel k(x, y) = (xᵀy/d + 1)³, unbiased.

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
    """Return the kernel distance as published: the mean of `polynomial_mmd` over random subsets.

    Args:
        generated: features (n, d).
        real: features (m, d).
        subsets: number of subsets.
        subset_size: samples per subset and side, without replacement; fewer where there are fewer. The value
            is unbiased for any size.
        generated_slides: one label per generated sample.
        real_slides: the same for the real ones.
        draws: halves drawn for the 95 % interval.
        seed: of subsets and draws.
    """
    generated, real = as_features(generated, real)
    size = min(subset_size, len(generated), len(real))
    rng = np.random.default_rng(seed)

    def some(indices: np.ndarray) -> np.ndarray:
        return indices if size >= len(indices) else rng.choice(indices, size, replace=False)

    def one_subset(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [polynomial_mmd(generated[some(i)], real[some(j)])]

    everything = np.arange(len(generated)), np.arange(len(real))
    # subsets of everything are all the same
    repeats = 1 if size == len(generated) == len(real) else subsets
    value = float(np.mean([one_subset(*everything) for _ in range(repeats)]))
    sides = sample_labels(generated, generated_slides), sample_labels(real, real_slides)
    return jackknife(one_subset, sides, values=[value], draws=draws, seed=seed)[0]


def overlap(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    k: int = 3,
    k_density: int = 5,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 20,
    seed: int = 0,
) -> list[Estimate]:
    """Return precision, density, recall and coverage with 95 % intervals.

    Precision and recall: Kynkäänniemi et al. 2019, eq. 1 and 2. Density: Naeem et al. 2020, eq. 4: how many
    real balls hold a generated sample, on average, over k; 1 for equal distributions, above 1 where generated
    samples crowd where real ones are dense; unlike precision, a single outlier with a large ball does not
    fool it. Coverage: eq. 6: share of real balls that hold a generated sample; towards 1 - 2⁻ᵏ for equal
    distributions of equal number.

    All of them depend on the numbers of samples: compare only sets of equal numbers.

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
        return _overlap(*own, between[np.ix_(i, j)], k, k_density)

    sides = sample_labels(generated, generated_slides), sample_labels(real, real_slides)
    estimates = jackknife(all_four, sides, draws=draws, seed=seed, bounds=(0, np.inf))
    return [
        Estimate(e.value, e.low, min(e.high, metric.bounds[1]), e.method)
        for e, metric in zip(estimates, OVERLAP, strict=True)
    ]


def pairwise_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Euclidean distances of all pairs, computed in float64, as float32 (n, m).

    Args:
        x: features (n, d).
        y: features (m, d).
    """
    centre = y.mean(0)  # keeps |x|² + |y|² - 2 xᵀy accurate where the features are far from 0
    x, y = np.asarray(x - centre, np.float64), np.asarray(y - centre, np.float64)
    lengths, found = np.square(y).sum(1), np.empty((len(x), len(y)), np.float32)
    for start in range(0, len(x), _ROWS):
        some = x[start : start + _ROWS]
        squares = np.square(some).sum(1)[:, None] + lengths - 2 * (some @ y.T)
        found[start : start + _ROWS] = np.sqrt(np.maximum(squares, 0))
    return found


def as_features(*sets: np.ndarray) -> list[np.ndarray]:
    """Return the sets as float64 (n, d), checked: one d, at least two samples each, finite."""
    arrays = [np.asarray(s, np.float64) for s in sets]
    if any(a.ndim != 2 or len(a) < 2 for a in arrays) or len({a.shape[1] for a in arrays}) > 1:
        raise InvalidValueError(
            "features must be (samples ≥ 2, dimensions), equal in dimensions, "
            f"got {[a.shape for a in arrays]}"
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise InvalidValueError("features must be finite, got NaN or infinity; check the encoder's weights")
    return arrays


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    roots = []
    for features in (x, y):
        centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
        # R of QR has the same Gram matrix in fewer rows
        roots.append(np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred)
    # tr(Σ_i) is the squared Frobenius norm of its root; the last trace the nuclear norm of the product
    difference = x.mean(0) - y.mean(0)
    traces = sum(float(np.square(root).sum()) for root in roots)
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(difference @ difference) + traces - 2 * shared)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: np.ndarray) -> float:
    # without the diagonal, or the mean over pairs would be biased
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _overlap(gg: np.ndarray, rr: np.ndarray, gr: np.ndarray, k: int, k_density: int) -> np.ndarray:
    """Return the four numbers from the distances within generated, within real and between them."""
    # borders as published: balls of precision and recall are closed, those of density are open
    precision = (gr <= _radius(rr, k)).any(axis=1).mean()
    recall = (gr <= _radius(gg, k)[:, None]).any(axis=0).mean()
    inside = gr < _radius(rr, k_density)
    return np.array([precision, inside.sum(axis=1).mean() / k_density, recall, inside.any(axis=0).mean()])


def _radius(distances: np.ndarray, k: int) -> np.ndarray:
    """Return the distance of each sample to its k-th nearest neighbour; the 0th is the sample itself."""
    return np.partition(distances, k, axis=1)[:, k]
