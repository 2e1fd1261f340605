"""Privacy: has the generator memorised its training slides?

Besides copies (`wsigen.evaluation.copies`), three questions, each on distances of features or of signatures:

- `authenticity`: is a generated patch nearer to a real one than that one's own nearest neighbour?
- `copying_test`: are generated patches nearer to the training set than held-out real ones are?
- `membership`: are training patches nearer to the generated set than held-out ones are?

They want held-out slides that differ from the training slides as these do among themselves; with few slides
their differences count as memory, and the real-vs-real range shows by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2

from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison, Halves, split_halves
from wsigen.evaluation.copies import COPIES, Neighbour, copy_rows
from wsigen.evaluation.estimate import Estimate, Labels, jackknife, run_measure, sample_labels
from wsigen.evaluation.fidelity import as_features, pairwise_distances
from wsigen.evaluation.gallery import Gallery, feature_distances
from wsigen.evaluation.realism import auc, mann_whitney_z
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import ANY, Metric

FEWEST_IN_CELL = 10

_metric = partial(Metric, "privacy")
NEAR_PIXELS = _metric(
    "near_pixels",
    "Distance to the nearest real patch, pixels",
    "higher",
    good="no less than between patches of different real slides",
    source="median of 1 - correlation of signatures at the best of 8 orientations",
)
NEAR_FEATURES = _metric(
    "near_features",
    "Distance to the nearest real patch, features",
    "higher",
    good="no less than between patches of different real slides",
    source="median Euclidean distance of standardised features",
)
AUTHENTICITY = _metric(
    "authenticity",
    "AuthPct",
    "higher",
    good="as high as for held-out real patches: they are no nearer to a real patch than others",
    source="Alaa et al. 2022; patches of one slide are not compared",
    unit="%",
    bounds=(0.0, 100.0),
)
COPYING = _metric(
    "copying",
    "C_T test of data-copying",
    "higher",
    good="about 0 or above; below −3 the set is nearer to the training slides than real slides are",
    source="Meehan et al. 2020, eq. 2 and 3",
    unit="σ",
    bounds=ANY,
    bad=-3.0,
)
MEMBERSHIP = _metric(
    "membership",
    "Membership, AUC",
    "lower",
    good="0.5: whether a slide was trained on cannot be told from the set",
    source="distance to the nearest patch of the set, Chen et al. 2020",
    bounds=(0.0, 1.0),
)
METRICS = (NEAR_PIXELS, NEAR_FEATURES, AUTHENTICITY, COPYING, MEMBERSHIP)


def privacy_rows(c: Comparison, gallery: Gallery) -> tuple[list[Result], list[Neighbour], np.ndarray | None]:
    """Compare one set with the gallery.

    Returns:
        Rows; the patches nearest to real places; and the distance of each patch to the nearest of the
        gallery, None where the gallery is of one slide or case.
    """
    if gallery.alone:
        note = "not measured: it takes at least two real slides (or cases) to know how near they come"
        metrics = (COPIES, NEAR_PIXELS, NEAR_FEATURES, AUTHENTICITY)
        return [Result(metric, c.mpp, None, None, "", (note,)) for metric in metrics], [], None
    pixels, features = gallery.pixel_distances(c.ours), gallery.feature_distances(c.ours)
    rows, neighbours = copy_rows(c, gallery, pixels)
    rows.append(_nearness(c, gallery, NEAR_PIXELS, pixels, gallery.real_pixels))
    rows.append(_nearness(c, gallery, NEAR_FEATURES, features, gallery.real_features))
    rows.append(_authenticity(c, gallery))
    return [*rows, *_against_held_out(c, gallery)], neighbours, pixels


def unknown_training() -> list[Result]:
    """Return the rows that need the slides the model learnt from, without values."""
    note = "not measured: give the slides that the model learnt from as --train"
    return [Result(metric, None, None, None, "", (note,)) for metric in (COPYING, MEMBERSHIP)]


def authenticity(
    between: np.ndarray,
    within: np.ndarray,
    *,
    generated_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> Estimate:
    """Return AuthPct: the percentage of generated patches farther from their nearest real patch than that is
    from its own.

    Alaa et al. 2022, section 2.3 and 4.2 (as used by Stein et al. 2023). Exact copies are never authentic.
    Compare it with that of held-out real patches, which is its floor, rather than with 100.

    Args:
        between: distances of generated to training patches, (n, m).
        within: distances of training patches among themselves, (m, m).
        generated_slides: one label per generated patch.
        draws: halves drawn for the interval.
        seed: of the draws.
    """
    authentic = 100.0 * is_authentic(between, within)
    side = sample_labels(between, generated_slides)
    return jackknife(lambda i: [authentic[i].mean()], [side], draws=draws, seed=seed, bounds=(0, 100))[0]


def is_authentic(between: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return whether each generated patch is authentic, bool (n,): see `authenticity`."""
    if between.ndim != 2 or within.shape != (between.shape[1], between.shape[1]):
        raise InvalidValueError(
            f"distances must be (generated, real) and (real, real), got {between.shape} and {within.shape}"
        )
    own = within.astype(np.float64)
    np.fill_diagonal(own, np.inf)
    nearest = between.argmin(axis=1)
    return between[np.arange(len(between)), nearest] > own[nearest].min(axis=1)


class CopyingTest(NamedTuple):
    """Outcome of the test for data-copying.

    Args:
        statistic: C_T, in standard deviations: below -3 the generator copies its training set; above 3 it
            stays farther from it than real patches do (it does not fit yet); in between neither shows.
        cells: z of every cell that had enough patches.
    """

    statistic: float
    cells: tuple[float, ...]


def copying_test(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, *, cells: int = 5, seed: int = 0
) -> CopyingTest:
    """Return C_T of Meehan, Chaudhuri & Dasgupta 2020, eq. 2 and 3: is the set too near to its training set?

    k-means on the training set divides features into cells. In each cell, z of the Mann-Whitney test compares
    the distances of generated and of held-out patches to the nearest training patch; cells are averaged by
    their share of the held-out patches.

    Args:
        generated: features (n, d).
        training: features (m, d).
        held_out: features (l, d) of real patches that were not trained on.
        cells: number of cells; those with fewer than 10 patches of any kind are left out.
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
    return CopyingTest(float(np.average(scores, weights=weights)), tuple(scores))


def membership(
    training: np.ndarray,
    held_out: np.ndarray,
    *,
    training_slides: Labels | None = None,
    held_out_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> Estimate:
    """Return the AUC of guessing, from the nearest generated patch, whether a real patch was trained on.

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


def _nearness(c: Comparison, gallery: Gallery, metric: Metric, ours: np.ndarray, null: np.ndarray) -> Result:
    """Compare the median distance to the nearest, of the set and of real patches."""

    def median(distances: np.ndarray, groups: Sequence[str]) -> Estimate:
        return jackknife(
            lambda i: [float(np.median(distances[i]))], [groups], seed=gallery.seed, bounds=(0, np.inf)
        )[0]

    usable = np.flatnonzero(np.isfinite(null))
    value, notes = run_measure(lambda: median(ours, c.ours.groups))
    groups = [gallery.real.groups[i] for i in usable]
    floor, warnings = run_measure(lambda: median(null[usable], groups))
    return Result(metric, c.mpp, value, floor, c.samples, (*notes, *warnings), cases=gallery.cases)


def _authenticity(c: Comparison, gallery: Gallery) -> Result:
    between = feature_distances(c.ours.features, gallery.patches.features, gallery.scale)
    value, notes = run_measure(
        lambda: authenticity(between, gallery.within, generated_slides=c.ours.groups, seed=gallery.seed)
    )
    floor, warnings = run_measure(lambda: _authenticity_floor(gallery))
    return Result(AUTHENTICITY, c.mpp, value, floor, c.samples, (*notes, *warnings), cases=gallery.cases)


def _authenticity_floor(gallery: Gallery) -> Estimate:
    """Return the authenticity of real patches, each slide (or case) against a gallery without itself.

    Its own patches must not set the nearest distances of the others' either, or no patch could be nearer to
    one than its own nearest, and all were authentic.
    """
    real, held = gallery.real, np.full(len(gallery.real), np.nan)
    labels = np.array(real.groups)
    for group in np.unique(labels):
        ours, others = np.flatnonzero(labels == group), gallery.groups != group
        if len(set(gallery.groups[others])) > 1:
            between = feature_distances(real.features[ours], gallery.patches.features[others], gallery.scale)
            held[ours] = 100.0 * is_authentic(between, gallery.within[np.ix_(others, others)])
    if np.isnan(held).any():
        raise InvalidValueError("authenticity has a floor from three real slides (or cases) on")
    return jackknife(lambda i: [held[i].mean()], [real.groups], seed=gallery.seed, bounds=(0, 100))[0]


def _against_held_out(c: Comparison, gallery: Gallery) -> list[Result]:
    """Test for copying and membership; no rows where the training slides are not known."""
    if gallery.train is None:
        return []
    ours, train, real, seed = c.ours, gallery.train, gallery.real, gallery.seed
    splits = split_halves(real.groups, [gallery.mpp] * len(real), {gallery.mpp: len(real)}, seed=seed)
    # either half may be the one that was trained on: one direction alone shows half of what chance does
    splits = [turned for s in splits for turned in (s, Halves(s.other, s.one))]

    def statistic(features: np.ndarray, held_out: np.ndarray) -> float:
        return copying_test(features, train.features, held_out, seed=seed).statistic

    z, notes = run_measure(lambda: statistic(ours.features, real.features))
    # C_T is standard normal where nothing is copied
    value = None if z is None else Estimate(z, z - 1.96, z + 1.96, "standard normal")
    floor, warnings = run_measure(
        lambda: _range([statistic(real.features[s.one], real.features[s.other]) for s in splits])
    )
    rows = [Result(COPYING, c.mpp, value, floor, c.samples, (*notes, *warnings), cases=gallery.cases)]
    near = [feature_distances(p.features, ours.features, gallery.scale).min(axis=1) for p in (train, real)]
    value, notes = run_measure(
        lambda: membership(*near, training_slides=train.groups, held_out_slides=real.groups, seed=seed)
    )
    floor = _range([membership(near[1][s.one], near[1][s.other], draws=2).value for s in splits])
    return [*rows, Result(MEMBERSHIP, c.mpp, value, floor, c.samples, notes, cases=gallery.cases)]


def _range(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(
        float(np.mean(values)), float(low), float(high), f"{len(values)} splits of the real slides"
    )


def _k_means(samples: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return centres (cells, d) of k-means, begun as k-means++ (Arthur & Vassilvitskii 2007)."""
    centres = samples[rng.integers(len(samples))][None]
    while len(centres) < cells:
        # far samples are likely centres; the constant keeps duplicates possible
        squares = pairwise_distances(samples, centres).min(axis=1).astype(np.float64) ** 2 + 1e-12
        following = samples[rng.choice(len(samples), p=squares / squares.sum())]
        centres = np.concatenate([centres, following[None]])
    return kmeans2(samples, centres, iter=30, minit="matrix")[0]
