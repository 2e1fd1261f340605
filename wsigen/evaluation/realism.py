"""Realism by a classifier: how well can generated patches be told from real ones?

Classifier two-sample test (Lopez-Paz & Oquab 2017): if a classifier that was trained to tell the two sets
apart does no better than chance on samples that it has not seen, the sets are of one distribution as far as
its features tell. Here it is Fisher's linear discriminant with the shrinkage of Ledoit & Wolf 2004, in closed
form, so that the result has no training noise; AUC 0.5 = cannot tell, 1 = always tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import mannwhitneyu

from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.estimate import Estimate, Labels, caution, jackknife, sample_labels
from wsigen.evaluation.fidelity import as_features
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import Metric

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches

AUC = Metric(
    "realism",
    "auc",
    "Classifier's AUC",
    "lower",
    good="as low as between real and real, 0.5 being a coin toss; at 1 the set is always recognised",
    source="classifier two-sample test, Lopez-Paz & Oquab 2017, with a shrunk linear discriminant",
    bounds=(0.0, 1.0),
)
METRICS = (AUC,)


def realism_rows(c: Comparison[Patches]) -> list[Result]:
    """Compare by the AUC of a classifier of the set and real patches."""
    every, groups = c.reals.every.features, np.asarray(c.reals.groups)

    def halves(i: np.ndarray, j: np.ndarray) -> list[float]:
        ours, theirs = groups[i], groups[j]
        found = two_sample_test(
            every[i], every[j], generated_slides=ours, real_slides=theirs, draws=2, seed=c.seed
        )
        return [found.value]

    def whole() -> list[Estimate]:
        ours, theirs = c.ours.groups, c.theirs.groups
        features = c.ours.features, c.theirs.features
        return [two_sample_test(*features, generated_slides=ours, real_slides=theirs, seed=c.seed)]

    return c.rows([AUC], whole, c.reals.floor("auc", halves, (0, 1)))


def two_sample_test(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    folds: int = 5,
    draws: int = 40,
    seed: int = 0,
) -> Estimate:
    """Return the cross-validated AUC of telling generated from real, with a 95 % interval.

    Where both sides have slide labels, no slide is both trained and tested on: a classifier that only
    recognises slides gains nothing. Pairs are compared within a fold. The interval is that of the test
    samples; that of the training samples is not in it.

    Args:
        generated: features (n, d).
        real: features (m, d).
        generated_slides: one label per generated sample.
        real_slides: one label per real sample.
        folds: number of parts; as many as there are slides where those are fewer.
        draws: halves drawn for the interval.
        seed: of the parts and the draws.

    Raises:
        InvalidValueError: fewer than 10 samples a side.

    Warns:
        MeasureWarning: slides cannot be kept apart, since one side has fewer than two (or labels are
            missing).
    """
    generated, real = as_features(generated, real)
    if min(len(generated), len(real)) < 10:
        raise InvalidValueError(
            f"a classifier needs at least 10 samples a side, got {len(generated)} and {len(real)}"
        )
    sides = [sample_labels(generated, generated_slides), sample_labels(real, real_slides)]
    parts = _parts(sides, folds, np.random.default_rng(seed))
    scores = [np.empty(len(generated)), np.empty(len(real))]
    for fold in range(parts[0].max() + 1):
        # trained on all other folds, scored on this one
        rule = Discriminant(generated[parts[0] != fold], real[parts[1] != fold])
        for samples, part, score in zip((generated, real), parts, scores, strict=True):
            score[part == fold] = rule(samples[part == fold])

    def auc_within_folds(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [_stratified(scores[0][i], scores[1][j], parts[0][i], parts[1][j])]

    return jackknife(auc_within_folds, sides, draws=draws, seed=seed, bounds=(0, 1))[0]


class Discriminant:
    """Fisher's linear discriminant on standardised features, its covariance shrunk towards the identity.

    Args:
        positive: features (n, d) of the set that should score high.
        negative: features (m, d).
    """

    def __init__(self, positive: np.ndarray, negative: np.ndarray) -> None:
        # scaled by both sides together, or the scale would tell them apart; constant features stay 0
        both = np.concatenate([positive, negative])
        self._centre, self._scale = both.mean(axis=0), np.maximum(both.std(axis=0), 1e-12)
        x, y = ((s - self._centre) / self._scale for s in (positive, negative))
        difference = x.mean(axis=0) - y.mean(axis=0)
        within = shrunk_covariance(np.concatenate([x - x.mean(axis=0), y - y.mean(axis=0)]))
        self._direction = np.linalg.solve(within, difference)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return scores (n,) of features (n, d)."""
        return (features - self._centre) / self._scale @ self._direction


def shrunk_covariance(centred: np.ndarray) -> np.ndarray:
    """Shrink a covariance towards a multiple of the identity by as much as minimises its expected error.

    Ledoit & Wolf 2004, J. Multivariate Anal. 88(2), eq. 5 to 14.

    Args:
        centred: samples (n, d) without their mean.
    """
    n, d = centred.shape
    sample = centred.T @ centred / n
    level = np.trace(sample) / d
    dispersion = np.square(sample).sum() - d * level**2
    error = (np.square(np.square(centred).sum(axis=1)).sum() / n - np.square(sample).sum()) / n
    # shrink by the expected error of the sample covariance, relative to its dispersion
    share = 1.0 if dispersion <= 0 else float(np.clip(error / dispersion, 1e-6, 1))
    return (1 - share) * sample + share * max(level, 1e-12) * np.eye(d)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive score (n,) exceeds a negative one (m,), ties counting one half.

    In [0, 1], the area under the ROC curve; NaN if there are none of either.
    """
    if not len(positive) or not len(negative):
        return np.nan
    return float(_u(positive, negative) / (len(positive) * len(negative)))


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """Return z of the Mann-Whitney test: negative where values of ``a`` are smaller than those of ``b``."""
    n, m = len(a), len(b)
    return float((_u(a, b) - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


def _u(a: np.ndarray, b: np.ndarray) -> float:
    # its p-value is not used; the asymptotic one is the fastest to compute
    return mannwhitneyu(a, b, method="asymptotic").statistic


def _stratified(
    positive: np.ndarray, negative: np.ndarray, positive_part: np.ndarray, negative_part: np.ndarray
) -> float:
    """Return the AUC over the pairs that lie in one fold."""
    total, pairs = 0.0, 0
    for fold in np.intersect1d(positive_part, negative_part):
        a, b = positive[positive_part == fold], negative[negative_part == fold]
        # folds are scored by different rules: scores compare within a fold only
        total, pairs = total + auc(a, b) * len(a) * len(b), pairs + len(a) * len(b)
    return total / pairs if pairs else np.nan


def _parts(sides: list[int | np.ndarray], folds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the fold of each sample, for both sides; of whole slides where both have at least two."""
    slides = [0 if isinstance(side, int) else len(np.unique(side)) for side in sides]
    if min(slides) >= 2:
        return [_by_slide(np.asarray(side), min(folds, *slides), rng) for side in sides]
    caution(
        "patches of one slide are on both sides of the classifier's split; it may know slides, not realism"
    )
    counts = [side if isinstance(side, int) else len(side) for side in sides]
    return [rng.permutation(np.arange(count) % folds) for count in counts]


def _by_slide(slides: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Put slides into folds, the largest first, each into the smallest fold; equal ones in random order."""
    _, member, counts = np.unique(slides, return_inverse=True, return_counts=True)
    filled, fold_of = np.zeros(folds, int), np.empty(len(counts), int)
    for slide in sorted(rng.permutation(len(counts)), key=lambda s: -counts[s]):
        fold_of[slide] = np.argmin(filled)
        filled[fold_of[slide]] += counts[slide]
    return fold_of[member]
