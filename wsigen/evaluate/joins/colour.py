"""Spectrum, amounts of stain and hue: what is pooled over all patches of a set."""

from __future__ import annotations

import numpy as np

from wsigen.evaluate.collect import heeding
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.joins.sides import Comparison, Pair
from wsigen.evaluate.observe import Patches
from wsigen.evaluate.results import Result
from wsigen.evaluate.spectrum import OCTAVES, spectrum_ratio
from wsigen.slide.stains import DENSITY_BINS, DENSITY_TOP, correlation, kl_divergence

OTHER_STAIN = {"h-e": "eosin", "h-dab": "brown"}
_CENTRES = (np.arange(DENSITY_BINS) + 0.5) * DENSITY_TOP / DENSITY_BINS


def octave_names() -> list[str]:
    """The octaves in words: wavelengths in px."""
    return [f"{2 ** (k + 1) if k else 1.4:g}–{2 ** (k + 2)} px" for k in range(OCTAVES)]


def spectrum_rows(c: Comparison) -> list[Result]:
    """Ratio of power in each octave, and the checkerboard."""
    ours, theirs, powers = c.ours, c.theirs, c.reals.patches.powers
    found, cautions = heeding(
        lambda: spectrum_ratio(
            ours.powers,
            theirs.powers,
            generated_slides=ours.groups,
            real_slides=theirs.groups,
            seed=c.seed,
        )
    )
    floors = c.reals.floor("spectrum", lambda i, j: _ratios(powers[i], powers[j]), (0, np.inf))
    values = [*found.octaves, found.checkerboard] if found else None
    keys = ["power"] * OCTAVES + ["checkerboard"]
    return c.rows(keys, values, floors, cautions, labels=[*octave_names(), ""])


def stain_rows(c: Comparison) -> list[Result]:
    """Amounts of the two stains, how they are distributed, and hues."""
    ours, theirs, every = c.ours, c.theirs, c.reals.patches
    levels, cautions = heeding(
        lambda: jackknife(lambda i: _levels(ours, i), (ours.groups,), seed=c.seed, draws=40)
    )
    floors = c.reals.floor("levels", lambda i, j: _levels(every, np.concatenate([i, j])))
    spread = c.reals.floor("levels of halves", lambda i, _: _levels(every, i))
    stains = ("haematoxylin", OTHER_STAIN[c.stains])
    names = [f"{stain}_{what}" for stain in stains for what in ("mean", "p90")] + ["saturation"]
    rows = c.rows(names, levels, centred(floors[0], spread[0]), (*cautions, *floors[1]))
    distances, cautions = heeding(
        lambda: jackknife(
            lambda i, j: _distances(ours, i, theirs, j),
            (ours.groups, theirs.groups),
            seed=c.seed,
            draws=20,
        )
    )
    between: Pair = lambda i, j: _distances(every, i, every, j)  # noqa: E731
    return rows + c.rows(
        [*(f"{stain}_kl" for stain in stains), "hue"],
        distances,
        c.reals.floor("stain distances", between),
        cautions,
    )


def density_curves(patches: Patches) -> np.ndarray:
    """Share of the pixels by amount of each of the two stains, (2, 256)."""
    counts = patches.densities.sum(axis=0, dtype=np.float64)
    return counts / counts.sum(axis=1, keepdims=True)


def density_centres() -> np.ndarray:
    """Middle of each bin of `density_curves`, OD."""
    return _CENTRES


def centred(
    values: list[Estimate] | None, halves: list[Estimate] | None
) -> tuple[list[Estimate] | None, tuple[str, ...]]:
    """Levels of all real patches, with the range that halves of their slides have."""
    if values is None or halves is None:
        return None, ()
    found = [
        Estimate(v.value, v.value + h.low - h.value, v.value + h.high - h.value, h.method)
        for v, h in zip(values, halves, strict=True)
    ]
    return found, ()


def _ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ratio = ours.mean(axis=0) / np.maximum(theirs.mean(axis=0), 1e-30)
    return np.append(ratio[:-1], ratio[-1] / max(ratio[0], 1e-30))


def _levels(patches: Patches, indices: np.ndarray) -> list[float]:
    counts = patches.densities[indices].sum(axis=0, dtype=np.float64)
    means = patches.amounts[indices].mean(axis=0)
    amounts = [float(means[0]), percentile(counts[0]), float(means[1]), percentile(counts[1])]
    return [*amounts, float(patches.saturations[indices].mean())]


def percentile(counts: np.ndarray, share: float = 0.9) -> float:
    """Amount of stain below which a share of the pixels lies, of a histogram (256,)."""
    cumulative = np.cumsum(counts) / counts.sum()
    return float(np.interp(share, cumulative, _CENTRES + DENSITY_TOP / DENSITY_BINS / 2))


def _distances(a: Patches, i: np.ndarray, b: Patches, j: np.ndarray) -> list[float]:
    """KL of real ``b`` to ``a`` for both stains, and the correlation of their hues."""
    ours, theirs = (p.densities[k].sum(axis=0, dtype=np.float64) for p, k in ((a, i), (b, j)))
    hues = correlation(a.hues[i].mean(axis=0), b.hues[j].mean(axis=0))
    return [*(kl_divergence(theirs[s], ours[s]) for s in (0, 1)), hues]
