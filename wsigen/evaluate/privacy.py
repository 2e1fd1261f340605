"""Privacy: has the generator memorised its training slides?

Four questions, each on distances in any space: of features (`feature_distances`) or of pixels
(`wsigen.evaluate.fingerprint`, which sees through recolouring, blur and the 8 orientations).

- `find_copies`: is any generated patch far nearer to a training patch than unrelated real ones ever are?
- `authenticity`: is a generated patch nearer to a real one than that one's own nearest neighbour?
- `copying_test`: are generated patches nearer to the training set than held-out real ones are?
- `membership`: are training patches nearer to the generated set than held-out ones are?

The last three want held-out slides that differ from the training slides as these do among themselves; with
few slides their differences count as memory, and the real-against-real row shows by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import Estimate, caution, jackknife
from wsigen.evaluate.fidelity import Labels, as_features, sample_labels
from wsigen.evaluate.fingerprint import Nearest
from wsigen.evaluate.manifold import pairwise_distances
from wsigen.evaluate.realism import auc

COPY_SHARE, COPY_DISTANCE, SUSPICIOUS_NULL = 0.6, 0.3, 0.25
FEWEST_IN_CELL = 10


@dataclass(frozen=True)
class Copies:
    """Generated patches that are copies of training patches.

    Args:
        threshold: distance below which a patch counts as a copy.
        flagged: which generated patches do, nearest first.
        p_values: for each generated patch, the share of unrelated real ones that are as near to the training
            set, (k + 1)/(n + 1).
    """

    threshold: float
    flagged: np.ndarray
    p_values: np.ndarray


def find_copies(generated: np.ndarray, unrelated: np.ndarray, *, largest: float = COPY_DISTANCE) -> Copies:
    """Copies among generated patches, by the distance to their nearest training patch.

    A copy is nearer than 0.6 times the distance that 1 % of unrelated real patches fall below, and nearer
    than ``largest``.

    Args:
        generated: distance of each generated patch to the nearest training patch, (n,), as from
            `nearest_fingerprints` or `search`.
        unrelated: the same of real patches of other slides, (m,): the null distribution.
        largest: no distance above this is that of a copy; 0.3 for fingerprints, infinity for features.

    Warns:
        MeasureWarning: the unrelated patches hold near-copies of the training set (one slide on both sides,
            or overlapping patches): then copies are hard to tell.
    """
    if len(unrelated) < 10:
        raise InvalidValueError(f"the null distribution needs at least 10 real patches, got {len(unrelated)}")
    lowest = float(np.quantile(unrelated, 0.01))
    if lowest < SUSPICIOUS_NULL * float(np.median(unrelated)):
        caution(
            f"real patches that should be unrelated to the training set come as near as {lowest:.3g} (median "
            f"{np.median(unrelated):.3g}): are there patches of one slide on both sides?"
        )
    threshold = min(largest, COPY_SHARE * lowest)
    nearer = np.searchsorted(np.sort(unrelated), generated, side="right")
    order = np.argsort(generated, kind="stable")
    return Copies(threshold, order[generated[order] < threshold], (nearer + 1) / (len(unrelated) + 1))


def feature_distances(queries: np.ndarray, gallery: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Euclidean distances of features, each divided by its scale, over the root of the number of dimensions.

    Args:
        queries: features (n, d).
        gallery: features (m, d).
        scale: (d,), say the standard deviations of the training features; those that do not vary are left
            out.

    Returns:
        float32 (n, m); 1.4 between independent normal samples.
    """
    queries, gallery = as_features(queries, gallery)
    varying = scale > 1e-9
    queries, gallery = (x[:, varying] / scale[varying] for x in (queries, gallery))
    return pairwise_distances(queries, gallery) / np.float32(np.sqrt(max(1, int(varying.sum()))))


def nearest_features(
    queries: np.ndarray,
    gallery: np.ndarray,
    scale: np.ndarray,
    *,
    query_slides: np.ndarray | None = None,
    gallery_slides: np.ndarray | None = None,
) -> Nearest:
    """The nearest of a gallery to each query by `feature_distances`; patches of one slide are not compared.

    Args:
        queries: features (n, d).
        gallery: features (m, d).
        scale: (d,).
        query_slides: one label per query.
        gallery_slides: one label per patch of the gallery.
    """
    distances = feature_distances(queries, gallery, scale)
    if query_slides is not None and gallery_slides is not None:
        distances[query_slides[:, None] == gallery_slides[None]] = np.inf
    index = distances.argmin(axis=1)
    return Nearest(distances[np.arange(len(index)), index], index, np.zeros(len(index), int))


def authenticity(
    between: np.ndarray,
    within: np.ndarray,
    *,
    generated_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> Estimate:
    """AuthPct: percentage of generated patches that are farther from their nearest real patch than that is
    from its own.

    Alaa et al. 2022, section 2.3 and 4.2 (as used by Stein et al. 2023). Exact copies are never authentic.
    Compare it with that of held-out real patches in place of generated ones, which is its floor, rather than
    with 100.

    Args:
        between: distances of generated to training patches, (n, m).
        within: distances of training patches among themselves, (m, m).
        generated_slides: one label per generated patch.
        draws: halves drawn for the interval.
        seed: of the draws.

    Returns:
        In [0, 100].
    """
    authentic = 100.0 * is_authentic(between, within)
    side = sample_labels(between, generated_slides)
    return jackknife(lambda i: [authentic[i].mean()], [side], draws=draws, seed=seed, bounds=(0, 100))[0]


def is_authentic(between: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Of each generated patch, bool (n,): see `authenticity`."""
    if between.ndim != 2 or within.shape != (between.shape[1], between.shape[1]):
        raise InvalidValueError(
            f"distances must be (generated, real) and (real, real), got {between.shape} and {within.shape}"
        )
    own = within.astype(np.float64)
    np.fill_diagonal(own, np.inf)
    nearest = between.argmin(axis=1)
    return between[np.arange(len(between)), nearest] > own[nearest].min(axis=1)


@dataclass(frozen=True)
class CopyingTest:
    """Outcome of the test for data-copying.

    Args:
        statistic: C_T, in standard deviations: below -3 the generator copies its training set; above 3 it
            stays farther from it than real patches do (it does not fit yet); in between neither shows.
        cells: z of every cell that counted.
        left_out: how many cells had too few patches of some kind.
    """

    statistic: float
    cells: tuple[float, ...]
    left_out: int


def copying_test(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, *, cells: int = 5, seed: int = 0
) -> CopyingTest:
    """C_T, Meehan, Chaudhuri & Dasgupta 2020, eq. 2 and 3: are generated patches too near to the training
    set?

    Features are divided into cells by k-means on the training set. In each cell, z of the Mann-Whitney test
    compares the distances of generated and of held-out patches to the nearest training patch; cells are
    averaged by their share of the held-out patches.

    Args:
        generated: features (n, d).
        training: features (m, d).
        held_out: features (l, d) of real patches that were not trained on.
        cells: how many; cells with fewer than 10 patches of any kind are left out.
        seed: of k-means.

    Raises:
        InvalidValueError: no cell has enough patches.
    """
    generated, training, held_out = as_features(generated, training, held_out)
    scale = np.maximum(training.std(axis=0), 1e-9)
    sets = [x / scale for x in (generated, training, held_out)]
    centres = _k_means(sets[1], cells, np.random.default_rng(seed))
    members = [pairwise_distances(x, centres).argmin(axis=1) for x in sets]
    scores, weights = [], []
    for cell in range(cells):
        ours, trained, others = (x[member == cell] for x, member in zip(sets, members, strict=True))
        if min(len(ours), len(trained), len(others)) >= FEWEST_IN_CELL:
            near = [pairwise_distances(x, trained).min(axis=1) for x in (ours, others)]
            scores.append(mann_whitney_z(*near))
            weights.append(len(others))
    if not scores:
        raise InvalidValueError(
            f"no cell has {FEWEST_IN_CELL} generated, training and held-out patches; "
            "take more, or fewer cells"
        )
    return CopyingTest(float(np.average(scores, weights=weights)), tuple(scores), cells - len(scores))


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """z of the Mann-Whitney test: negative where values of ``a`` are smaller than those of ``b``."""
    n, m = len(a), len(b)
    u = rankdata(np.concatenate([a, b]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


def membership(
    training: np.ndarray,
    held_out: np.ndarray,
    *,
    training_slides: Labels | None = None,
    held_out_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> Estimate:
    """AUC of guessing, from the distance to the nearest generated patch, whether a real patch was trained on.

    The black-box attack of Chen et al. 2020 ("GAN-Leaks", section 4.3). 0.5: the generated set tells nothing
    of membership; above: training patches are nearer to it.

    Args:
        training: distance of each training patch to the nearest generated one, (n,).
        held_out: the same of real patches that were not trained on, (m,).
        training_slides: one label per training patch.
        held_out_slides: one label per held-out patch.
        draws: halves drawn for the interval.
        seed: of the draws.
    """
    sides = [sample_labels(training, training_slides), sample_labels(held_out, held_out_slides)]
    return jackknife(
        lambda i, j: [auc(-training[i], -held_out[j])], sides, draws=draws, seed=seed, bounds=(0, 1)
    )[0]


def _k_means(samples: np.ndarray, cells: int, rng: np.random.Generator, rounds: int = 30) -> np.ndarray:
    """Centres (cells, d): k-means++ (Arthur & Vassilvitskii 2007), then Lloyd's rounds."""
    centres = samples[rng.integers(len(samples))][None]
    while len(centres) < cells:
        squares = pairwise_distances(samples, centres).min(axis=1).astype(np.float64) ** 2 + 1e-12
        centres = np.concatenate(
            [centres, samples[rng.choice(len(samples), p=squares / squares.sum())][None]]
        )
    for _ in range(rounds):
        member = pairwise_distances(samples, centres).argmin(axis=1)
        filled = np.unique(member)
        centres[filled] = [samples[member == cell].mean(axis=0) for cell in filled]
    return centres
