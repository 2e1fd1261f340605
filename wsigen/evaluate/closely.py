"""What takes too long to do to every patch: quality and nuclei of the patches that are kept whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.evaluate.draw import ahead
from wsigen.evaluate.observe import Patches
from wsigen.evaluate.quality import NIQE_BLOCK, niqe_blocks, piqe, sobel
from wsigen.slide.nuclei import COARSEST_MPP, Nuclei, find_nuclei

Blocks = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Closely:
    """Whole patches, looked at closely; item i of everything is of sample i.

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


def look_closely(
    patches: Patches,
    mpp: float,
    *,
    stains: str = "h-e",
    threads: int = 1,
) -> Closely:
    """Look closely at the samples of a set at one µm/px.

    Args:
        patches: with samples.
        mpp: their µm/px.
        stains: "h-e" or "h-dab", for nuclei.
        threads: how many look at once.
    """
    indices = sorted(patches.samples)
    images, groups = [patches.samples[i] for i in indices], [patches.groups[i] for i in indices]
    return look_at(images, groups, mpp, stains=stains, threads=threads)


def look_at(
    images: Sequence[np.ndarray],
    groups: Sequence[str],
    mpp: float,
    *,
    stains: str = "h-e",
    threads: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Closely:
    """Look closely at patches, uint8 (size, size, 3) each.

    Args:
        images: the patches.
        groups: slide or case of each.
        mpp: their µm/px.
        stains: "h-e" or "h-dab", for nuclei.
        threads: how many look at once.
        progress: called with the number of patches done.
    """
    with_nuclei = mpp <= COARSEST_MPP

    def look(image: np.ndarray) -> tuple[float, float, Blocks | None, Nuclei | None]:
        blocks = niqe_blocks(image) if min(image.shape[:2]) >= NIQE_BLOCK else None
        nuclei = find_nuclei(image, mpp, stains=stains) if with_nuclei else None
        return piqe(image), sobel(image), blocks, nuclei

    seen = []
    for one in ahead(look, images, threads):
        seen.append(one)
        progress(1)
    return Closely(
        groups=tuple(groups),
        piqe=np.array([s[0] for s in seen]),
        sobel=np.array([s[1] for s in seen]),
        blocks=tuple(s[2] for s in seen if s[2] is not None),
        nuclei=tuple(s[3] for s in seen if s[3] is not None),
    )
