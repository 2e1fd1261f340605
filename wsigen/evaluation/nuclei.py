"""Nuclei of two sets of patches: how many there are and how large.

It is a measure of distributions: `wsigen.slide.nuclei` errs alike on real and on generated patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from wsigen.evaluation.comparison import centred
from wsigen.evaluation.estimate import Estimate, jackknife, run_measure
from wsigen.evaluation.results import Result
from wsigen.evaluation.samples import RealSamples, Samples
from wsigen.evaluation.verdict import Metric
from wsigen.slide.nuclei import Nuclei

_metric = partial(Metric, "nuclei")
DENSITY = _metric(
    "nuclei_density",
    "Nuclei",
    good="as many as in the real slides",
    source="watershed on haematoxylin, no network involved",
    unit="per mm²",
)
AREA = _metric(
    "nuclei_area",
    "Median area of a nucleus",
    good="as large as in the real slides",
    source="watershed on haematoxylin",
    unit="µm²",
)
SIZES = _metric(
    "nuclei_sizes",
    "Distance of sizes",
    "lower",
    good="as low as between real and real: the mean difference in size of a nucleus",
    source="Wasserstein distance of the areas",
    unit="µm²",
)
METRICS = (DENSITY, AREA, SIZES)
FEW = 100  # Below this number of whole nuclei, their sizes come with a warning


def nuclei_rows(ours: Samples, real: RealSamples) -> list[Result]:
    """Compare numbers and sizes of nuclei of sampled patches; no rows where µm/px do not show nuclei."""
    if not ours.nuclei:
        return []
    found, theirs = ours.nuclei, real.seen.nuclei
    values, notes = run_measure(
        lambda: jackknife(
            lambda i, j: nuclei_numbers([found[k] for k in i], [theirs[k] for k in j]),
            (ours.groups, real.groups),
            draws=20,
            seed=real.seed,
            bounds=(0, np.inf),
        )
    )
    halves, warnings = real.floor(
        "nuclei", lambda i, j: nuclei_numbers([theirs[k] for k in i], [theirs[k] for k in j])
    )
    if halves is None:
        return real.rows(METRICS, ours, None, (None, warnings), notes)
    # the level of all real samples, with the range that halves have
    whole = [Estimate(v, v, v) for v in nuclei_numbers(theirs, theirs)[:2]]
    floors = [*(centred(whole, halves[:2]) or ()), halves[2]]
    number = sum(len(n.areas) for n in found)
    if number < FEW:
        few = f"{number} whole nuclei were found in {len(found)} patches: their sizes say little"
        warnings = (*warnings, few)
    return real.rows(METRICS, ours, values, (floors, warnings), notes)


def nuclei_numbers(ours: Sequence[Nuclei], theirs: Sequence[Nuclei]) -> list[float]:
    """Return density (per mm²) and median area (µm²) of ours, and the distance of areas to theirs (µm²).

    The distance is Wasserstein's: the mean difference of 512 equal quantiles.
    """
    density = sum(n.count for n in ours) / sum(n.extent for n in ours)
    mine, other = (np.sort(np.concatenate([n.areas for n in some])) for some in (ours, theirs))
    median = float(np.median(mine)) if mine.size else np.nan
    if not mine.size or not other.size:
        return [density, median, np.nan]
    shares = (np.arange(512) + 0.5) / 512
    return [density, median, float(np.abs(np.quantile(mine, shares) - np.quantile(other, shares)).mean())]
