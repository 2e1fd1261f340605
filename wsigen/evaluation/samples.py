"""Expensive measures (quality, nuclei), computed on a sample of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.evaluation.comparison import RealSide
from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.quality import NIQE_BLOCK, Blocks, niqe_blocks, piqe, sobel
from wsigen.evaluation.results import Floors, Result, make_rows
from wsigen.evaluation.spots import ahead
from wsigen.evaluation.verdict import Metric
from wsigen.slide.nuclei import COARSEST_MPP, Nuclei, find_nuclei


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

    def __len__(self) -> int:
        return len(self.groups)


class RealSamples(RealSide):
    """The real samples at one µm/px, and what is the same for all sets.

    Args:
        seen: twice as many as of a set.
        mpp: µm/px.
        seed: of draws.
    """

    def __init__(self, seen: Samples, mpp: float, seed: int) -> None:
        super().__init__(seen.groups, [mpp] * len(seen), {mpp: len(seen)}, seed)
        self.seen, self.mpp = seen, mpp

    def rows(
        self,
        metrics: Sequence[Metric],
        ours: Samples,
        values: Sequence[Estimate] | None,
        floors: Floors,
        warnings: tuple[str, ...],
    ) -> list[Result]:
        """Make a row of the report for each metric of a set's samples."""
        samples = f"{len(ours)} and {len(self.seen)} patches"
        return make_rows(metrics, self.mpp, values, floors, warnings, samples=samples, cases=self.cases)


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
