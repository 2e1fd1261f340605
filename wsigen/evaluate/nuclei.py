"""Nuclei of two sets of patches: how many there are and how large.

It is a measure of distributions: `wsigen.slide.nuclei` errs alike on real and on generated patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.fidelity import Labels, sample_labels
from wsigen.slide.nuclei import Nuclei


@dataclass(frozen=True)
class NucleiComparison:
    """Nuclei of two sets of patches.

    Args:
        density: of generated and of real nuclei, per mm².
        median_area: of generated and of real nuclei, µm².
        size_distance: Wasserstein distance between the distributions of their areas, µm²: by how much a
            nucleus is of another size, on average.
    """

    density: tuple[Estimate, Estimate]
    median_area: tuple[Estimate, Estimate]
    size_distance: Estimate


def compare_nuclei(
    generated: Sequence[Nuclei],
    real: Sequence[Nuclei],
    *,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> NucleiComparison:
    """Counts and sizes of two sets with 95 % intervals.

    Args:
        generated: nuclei of each generated patch.
        real: of each real patch, at the same µm/px.
        generated_slides: one label per generated patch.
        real_slides: the same for the real ones.
        draws: halves drawn for the intervals.
        seed: of the draws.
    """

    def numbers(i: np.ndarray, j: np.ndarray) -> list[float]:
        ours, theirs = [generated[k] for k in i], [real[k] for k in j]
        areas = _areas(ours), _areas(theirs)
        return [_density(ours), _density(theirs), _median(areas[0]), _median(areas[1]), _wasserstein(*areas)]

    sides = _side(generated, generated_slides), _side(real, real_slides)
    found = jackknife(numbers, sides, draws=draws, seed=seed, bounds=(0, np.inf))
    return NucleiComparison((found[0], found[1]), (found[2], found[3]), found[4])


def _density(nuclei: Sequence[Nuclei]) -> float:
    return sum(n.count for n in nuclei) / sum(n.extent for n in nuclei)


def _areas(nuclei: Sequence[Nuclei]) -> np.ndarray:
    return np.sort(np.concatenate([n.areas for n in nuclei]))


def _median(areas: np.ndarray) -> float:
    return float(np.median(areas)) if areas.size else np.nan


def _wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of equal quantiles, of sorted areas."""
    if not a.size or not b.size:
        return np.nan
    shares = (np.arange(512) + 0.5) / 512
    return float(np.abs(np.quantile(a, shares) - np.quantile(b, shares)).mean())


def _side(nuclei: Sequence[Nuclei], slides: Labels | None) -> int | np.ndarray:
    return sample_labels(np.empty((len(nuclei), 0)), slides)
