"""Quality and nuclei of a sample of patches: measures too expensive for all of them.

Those of nuclei compare distributions: `wsigen.slide.nuclei` errs alike on real and on generated patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsigen.evaluation.comparison import Comparison, RealSide, centred
from wsigen.evaluation.estimate import Estimate, jackknife
from wsigen.evaluation.quality import NIQE_BLOCK, Blocks, Niqe, niqe_blocks, piqe, sobel
from wsigen.evaluation.results import Result
from wsigen.evaluation.spots import ahead
from wsigen.evaluation.verdict import Metric
from wsigen.slide.nuclei import COARSEST_MPP, Nuclei, find_nuclei

FITS = 4  # Halves of the real patches that NIQE is fitted on
FEW = 100  # Below this number of whole nuclei, their sizes come with a warning

_quality = partial(Metric, "quality")
NIQE = _quality(
    "niqe",
    "NIQE (own fit)",
    "lower",
    good="as low as between real and real: local contrast is distributed as in real patches",
    source="after Mittal et al. 2013, in an implementation of wsigen's own whose Gaussian is fitted on the "
    "real patches: not comparable with NIQE in papers",
)
PIQE = _quality(
    "piqe",
    "PIQE",
    good="as in the real slides: higher is blockier or noisier, lower is smoother",
    source="Venkatanath et al. 2015, as MATLAB's piqe",
)
SOBEL = _quality(
    "sobel",
    "Sobel gradient",
    good="as in the real slides: lower is blurred, higher is oversharp",
    source="as in KIN (Ho et al. 2022): luminance, 3 × 3",
    unit="grey levels",
)
_nuclei = partial(Metric, "nuclei")
DENSITY = _nuclei(
    "nuclei_density",
    "Nuclei",
    good="as many as in the real slides",
    source="watershed on haematoxylin, no network involved",
    unit="per mm²",
)
AREA = _nuclei(
    "nuclei_area",
    "Median area of a nucleus",
    good="as large as in the real slides",
    source="watershed on haematoxylin",
    unit="µm²",
)
SIZES = _nuclei(
    "nuclei_sizes",
    "Distance of sizes",
    "lower",
    good="as low as between real and real: the mean difference in size of a nucleus",
    source="Wasserstein distance of the areas",
    unit="µm²",
)
NUCLEI = (DENSITY, AREA, SIZES)
METRICS = (NIQE, PIQE, SOBEL, *NUCLEI)


@dataclass(frozen=True)
class Samples:
    """Quality and nuclei of whole patches; item i of everything is of sample i.

    Attributes:
        groups: slide or case.
        piqe: float64 (n,).
        sobel: float64 (n,).
        blocks: for NIQE; empty where patches are smaller than its blocks.
        nuclei: empty where µm/px are too coarse to see them.
    """

    groups: tuple[str, ...]
    piqe: np.ndarray
    sobel: np.ndarray
    blocks: tuple[Blocks, ...]
    nuclei: tuple[Nuclei, ...]

    def fit_niqe(self, indices: np.ndarray) -> Niqe:
        """Fit NIQE's Gaussian on some of the samples."""
        return Niqe.fit_blocks([self.blocks[i] for i in indices])


def measure_samples(
    images: Sequence[np.ndarray],
    groups: Sequence[str],
    mpp: float,
    *,
    stains: str = "h-e",
    threads: int = 1,
) -> Samples:
    """Measure quality and nuclei of patches.

    Args:
        images: uint8 (size, size, 3) each.
        groups: slide or case of each.
        mpp: their µm/px.
        stains: "h-e" or "h-dab", for nuclei.
        threads: number of patches measured at once.
    """

    def look(image: np.ndarray) -> tuple[float, float, Blocks | None, Nuclei | None]:
        blocks = niqe_blocks(image) if min(image.shape[:2]) >= NIQE_BLOCK else None
        nuclei = find_nuclei(image, mpp, stains=stains) if mpp <= COARSEST_MPP else None
        return piqe(image), sobel(image), blocks, nuclei

    seen = list(ahead(look, images, threads))
    return Samples(
        groups=tuple(groups),
        piqe=np.array([s[0] for s in seen]),
        sobel=np.array([s[1] for s in seen]),
        blocks=tuple(s[2] for s in seen if s[2] is not None),
        nuclei=tuple(s[3] for s in seen if s[3] is not None),
    )


def real_samples(seen: Samples, mpp: float, seed: int) -> RealSide[Samples]:
    """Take all samples of the real slides at one µm/px, twice as many as of a set, as their side."""
    count = len(seen.groups)
    return RealSide(seen, [mpp] * count, {mpp: count}, seed)


def sample_rows(c: Comparison[Samples]) -> list[Result]:
    """Compare quality and nuclei of sampled patches."""
    sharpness = c.level_rows(
        (PIQE, SOBEL), "quality", lambda s, i: [float(s.piqe[i].mean()), float(s.sobel[i].mean())]
    )
    return [*_niqe_rows(c), *sharpness, *_nuclei_rows(c)]


def nuclei_numbers(ours: Sequence[Nuclei], theirs: Sequence[Nuclei]) -> list[float]:
    """Return density (per mm²) and median area (µm²) of ours, and the distance of areas to theirs (µm²).

    The distance is Wasserstein's: the mean difference of 512 equal quantiles.
    """
    density = sum(n.count for n in ours) / sum(n.extent for n in ours)
    mine, other = (np.sort(np.concatenate([n.areas for n in some])) for some in (ours, theirs))
    median = float(np.median(mine)) if mine.size else np.nan
    if not mine.size or not other.size:
        return [density, median, np.nan]
    # equal quantiles, since the sets differ in their numbers of nuclei
    shares = (np.arange(512) + 0.5) / 512
    return [density, median, float(np.abs(np.quantile(mine, shares) - np.quantile(other, shares)).mean())]


def _niqe_rows(c: Comparison[Samples]) -> list[Result]:
    """Score a set by Gaussians of several halves of the real samples; the interval is that of the first."""
    ours, every, splits = c.ours, c.reals.every, c.reals.splits[:FITS]
    if not ours.blocks or not every.blocks or not splits:
        return []

    def estimate() -> list[Estimate]:
        fits = [every.fit_niqe(s.one) for s in splits]
        return jackknife(
            lambda i: [fits[0].score_blocks([ours.blocks[k] for k in i])],
            (ours.groups,),
            values=[float(np.mean([fit.score_blocks(ours.blocks) for fit in fits]))],
            draws=20,
            seed=c.seed,
            bounds=(0, np.inf),
        )

    def between(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [every.fit_niqe(i).score_blocks([every.blocks[k] for k in j])]

    return c.rows([NIQE], estimate, c.reals.floor("niqe", between, splits=splits))


def _nuclei_rows(c: Comparison[Samples]) -> list[Result]:
    """Compare numbers and sizes of nuclei; no rows where µm/px do not show nuclei."""
    found, every = c.ours.nuclei, c.reals.every.nuclei
    if not found:
        return []

    def numbers(a: Samples, i: np.ndarray, b: Samples, j: np.ndarray) -> list[float]:
        return nuclei_numbers([a.nuclei[k] for k in i], [b.nuclei[k] for k in j])

    real = c.reals.every
    halves, warnings = c.reals.floor("nuclei", lambda i, j: numbers(real, i, real, j))
    floors = None
    if halves is not None:
        # the level of all real samples, with the range that halves have
        whole = [Estimate(v, v, v) for v in nuclei_numbers(every, every)[:2]]
        floors = [*(centred(whole, halves[:2]) or ()), halves[2]]
    number = sum(len(n.areas) for n in found)
    if number < FEW:
        few = f"{number} whole nuclei were found in {len(found)} patches: their sizes say little"
        warnings = (*warnings, few)
    return c.rows(NUCLEI, lambda: c.distances(numbers, bounds=(0, np.inf)), (floors, warnings))
