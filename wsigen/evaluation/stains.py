"""Amounts of stain and hues of a set beside those of the real slides, pooled over all patches."""

from __future__ import annotations

from functools import partial

import numpy as np

from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.estimate import jackknife, run_measure
from wsigen.evaluation.patches import Patches
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import ANY, Metric
from wsigen.slide.stains import DENSITY_BINS, DENSITY_TOP, correlation, kl_divergence

# Middle of each bin of `density_curves`, OD
DENSITY_CENTRES = (np.arange(DENSITY_BINS) + 0.5) * DENSITY_TOP / DENSITY_BINS
RUIFROK = "Ruifrok & Johnston 2001"
KL = "Kullback-Leibler divergence of density histograms, nats"
HUES = "histogram correlation of KIN (Ho et al. 2022) and DN: HSV hue, 10 bins"
REAL_AGAINST_REAL = "as low as between real and real"
_SHADE = "as in the real slides: neither paler nor deeper"

stain_level = partial(Metric, source=RUIFROK, unit="OD", bounds=ANY)
stain_divergence = partial(Metric, better="lower", good=REAL_AGAINST_REAL, source=KL, unit="nats", bad=0.5)
hue_correlation = partial(
    Metric,
    better="higher",
    good="as high as between real and real, about 1",
    source=HUES,
    bounds=(-1.0, 1.0),
    bad=0.5,
)
SATURATION = Metric(
    "stain",
    "saturation",
    "Saturation",
    good="as in the real slides: lower is greyer, higher more colourful",
    source="mean saturation of HSV",
    bounds=(0.0, 1.0),
)
HAEMATOXYLIN_MEAN = stain_level("stain", "haematoxylin_mean", "Haematoxylin, mean", good=_SHADE)
HAEMATOXYLIN_P90 = stain_level("stain", "haematoxylin_p90", "Haematoxylin, 90th percentile", good=_SHADE)
HAEMATOXYLIN_KL = stain_divergence("stain", "haematoxylin_kl", "Haematoxylin, KL(real ‖ set)")
EOSIN_MEAN = stain_level("stain", "eosin_mean", "Eosin, mean", good=_SHADE)
EOSIN_P90 = stain_level("stain", "eosin_p90", "Eosin, 90th percentile", good=_SHADE)
EOSIN_KL = stain_divergence("stain", "eosin_kl", "Eosin, KL(real ‖ set)")
BROWN_MEAN = stain_level("stain", "brown_mean", "DAB, mean", good=_SHADE)
BROWN_P90 = stain_level("stain", "brown_p90", "DAB, 90th percentile", good=_SHADE)
BROWN_KL = stain_divergence("stain", "brown_kl", "DAB, KL(real ‖ set)")
HUE = hue_correlation("stain", "hue", "Hue correlation")
METRICS = (
    *(SATURATION, HAEMATOXYLIN_MEAN, HAEMATOXYLIN_P90, HAEMATOXYLIN_KL, EOSIN_MEAN, BROWN_MEAN),
    *(EOSIN_P90, BROWN_P90, EOSIN_KL, BROWN_KL, HUE),
)
# Metrics of the stain beside haematoxylin
OTHER_STAIN = {"h-e": (EOSIN_MEAN, EOSIN_P90, EOSIN_KL), "h-dab": (BROWN_MEAN, BROWN_P90, BROWN_KL)}


def stain_rows(c: Comparison) -> list[Result]:
    """Compare amounts of the two stains, their distributions, and hues."""
    ours, theirs, every = c.ours, c.theirs, c.reals.patches
    mean, p90, kl = OTHER_STAIN[c.stains]
    levels, notes = run_measure(lambda: jackknife(lambda i: _levels(ours, i), (ours.groups,), seed=c.seed))
    rows = c.rows(
        [HAEMATOXYLIN_MEAN, HAEMATOXYLIN_P90, mean, p90, SATURATION],
        levels,
        c.reals.level("levels", lambda i: _levels(every, i)),
        notes,
    )
    distances, notes = run_measure(
        lambda: jackknife(
            lambda i, j: _distances(ours, i, theirs, j),
            (ours.groups, theirs.groups),
            seed=c.seed,
            draws=20,
        )
    )
    floors = c.reals.floor("stain distances", lambda i, j: _distances(every, i, every, j))
    return rows + c.rows([HAEMATOXYLIN_KL, kl, HUE], distances, floors, notes)


def density_curves(patches: Patches) -> np.ndarray:
    """Return the share of the pixels by amount of each of the two stains, (2, 256)."""
    counts = patches.densities.sum(axis=0, dtype=np.float64)
    return counts / counts.sum(axis=1, keepdims=True)


def percentile(counts: np.ndarray, share: float = 0.9) -> float:
    """Return the amount of stain below which a share of the pixels lies, of a histogram (256,)."""
    cumulative = np.cumsum(counts) / counts.sum()
    # a bin's cumulative share is reached at its upper edge
    return float(np.interp(share, cumulative, DENSITY_CENTRES + DENSITY_TOP / DENSITY_BINS / 2))


def _levels(patches: Patches, indices: np.ndarray) -> list[float]:
    counts = patches.densities[indices].sum(axis=0, dtype=np.float64)
    means = patches.amounts[indices].mean(axis=0)
    amounts = [float(means[0]), percentile(counts[0]), float(means[1]), percentile(counts[1])]
    return [*amounts, float(patches.saturations[indices].mean())]


def _distances(a: Patches, i: np.ndarray, b: Patches, j: np.ndarray) -> list[float]:
    """Return the KL divergence of real ``b`` from ``a`` for both stains, and their hues' correlation."""
    ours, theirs = (p.densities[k].sum(axis=0, dtype=np.float64) for p, k in ((a, i), (b, j)))
    hues = correlation(a.hues[i].mean(axis=0), b.hues[j].mean(axis=0))
    return [*(kl_divergence(theirs[s], ours[s]) for s in (0, 1)), hues]
