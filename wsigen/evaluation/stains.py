"""Amounts of stain and hues of a set beside those of the real slides, pooled over all patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import ANY, Metric
from wsigen.slide.stains import (
    DENSITY_BINS,
    DENSITY_TOP,
    correlation,
    density_summary,
    hue_histogram,
    kl_divergence,
    stain_densities,
)

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches

# Middle of each bin of `density_curves`, OD
DENSITY_CENTRES = (np.arange(DENSITY_BINS) + 0.5) * DENSITY_TOP / DENSITY_BINS
_SHADE = "as in the real slides: neither paler nor deeper"

stain_level = partial(Metric, source="Ruifrok & Johnston 2001", unit="OD", bounds=ANY)
stain_divergence = partial(
    Metric,
    better="lower",
    good="as low as between real and real",
    source="Kullback-Leibler divergence of density histograms, nats",
    unit="nats",
    bad=0.5,
)
hue_correlation = partial(
    Metric,
    better="higher",
    good="as high as between real and real, about 1",
    source="histogram correlation of KIN (Ho et al. 2022) and DN: HSV hue, 10 bins",
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


@dataclass(frozen=True)
class Stains:
    """Two stains of patches; row i is of patch i.

    Attributes:
        groups: slide or case of each.
        densities: int32 (n, 2, 256), histograms of their amounts.
        amounts: float64 (n, 2), mean amount of each, OD.
        positive: float64 (n, 2), share of the pixels from 0.2 OD on.
        hues: float64 (n, 10), see `hue_histogram`.
    """

    groups: Sequence[str]
    densities: np.ndarray
    amounts: np.ndarray
    positive: np.ndarray
    hues: np.ndarray

    @classmethod
    def of(cls, images: Sequence[np.ndarray], groups: Sequence[str], stains: str) -> Stains:
        """Measure patches, uint8 (h, w, 3) each; ``stains`` as for `stain_arrays`."""
        found = [stain_arrays(image, stains) for image in images]
        return cls(groups, **{name: np.stack([f[name] for f in found]) for name in found[0]})


def stain_arrays(image: np.ndarray, stains: str) -> dict[str, np.ndarray]:
    """Measure the stains of a patch.

    Args:
        image: uint8 (h, w, 3).
        stains: "h-e" for haematoxylin and eosin, "h-dab" for haematoxylin and DAB.

    Returns:
        ``densities``, ``amounts``, ``positive`` and ``hues``: a row of those of `Stains`.
    """
    densities = stain_densities(image, stains=stains)
    second = 1 if stains == "h-e" else 2
    both = [density_summary(np.ascontiguousarray(densities[..., c])) for c in (0, second)]
    return {
        "densities": np.stack([one.counts for one in both]).astype(np.int32),
        "amounts": np.array([one.mean for one in both]),
        "positive": np.array([one.positive_ratio for one in both]),
        "hues": hue_histogram(image),
    }


def stain_rows(c: Comparison[Patches], stains: str = "h-e") -> list[Result]:
    """Compare amounts of the two stains ("h-e" or "h-dab"), their distributions, and hues."""
    mean, p90, kl = OTHER_STAIN[stains]
    metrics = [HAEMATOXYLIN_MEAN, HAEMATOXYLIN_P90, mean, p90, SATURATION]
    rows = c.level_rows(metrics, "levels", lambda p, i: [*stain_levels(p, i), float(p.saturations[i].mean())])
    return rows + c.distance_rows([HAEMATOXYLIN_KL, kl, HUE], "stain distances", stain_distances)


def stain_levels(p: Patches | Stains, indices: np.ndarray) -> list[float]:
    """Return mean and 90th percentile of the first stain in some of the patches, and of the second."""
    counts = p.densities[indices].sum(axis=0, dtype=np.float64)
    means = p.amounts[indices].mean(axis=0)
    return [float(means[0]), percentile(counts[0]), float(means[1]), percentile(counts[1])]


def stain_distances(a: Patches | Stains, i: np.ndarray, b: Patches | Stains, j: np.ndarray) -> list[float]:
    """Return the KL divergence of real ``b`` from ``a`` for both stains, and their hues' correlation."""
    ours, theirs = (p.densities[k].sum(axis=0, dtype=np.float64) for p, k in ((a, i), (b, j)))
    hues = correlation(a.hues[i].mean(axis=0), b.hues[j].mean(axis=0))
    return [*(kl_divergence(theirs[s], ours[s]) for s in (0, 1)), hues]


def density_curves(patches: Patches) -> np.ndarray:
    """Return the share of the pixels by amount of each of the two stains, (2, 256)."""
    counts = patches.densities.sum(axis=0, dtype=np.float64)
    return counts / counts.sum(axis=1, keepdims=True)


def percentile(counts: np.ndarray, share: float = 0.9) -> float:
    """Return the amount of stain below which a share of the pixels lies, of a histogram (256,)."""
    cumulative = np.cumsum(counts) / counts.sum()
    # a bin's cumulative share is reached at its upper edge
    return float(np.interp(share, cumulative, DENSITY_CENTRES + DENSITY_TOP / DENSITY_BINS / 2))
