"""Nuclei by classical segmentation: how many there are and how large, real against generated.

Haematoxylin (colour deconvolution) is smoothed and thresholded by Otsu 1979, and by its own surroundings
where cytoplasm is blue too; holes are filled, and touching nuclei are parted by a watershed on the distance
transform (Beucher & Lantuéjoul 1979; Malpica et al. 1997). No network is involved, so generated patches
cannot profit from resembling a network's training data. It is a measure of distributions: counts are off by a
tenth or two against a pathologist, for real and generated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.fidelity import Labels, sample_labels
from wsigen.evaluate.stain import WHITE, stain_densities

COARSEST_MPP = 1.0
"""Above this a nucleus of 6 µm has fewer than 6 px across."""

SMOOTHING_UM, SURROUNDINGS_UM, SEED_UM = 0.6, 12.0, 2.0
AREA_UM2, HOLE_UM2 = (8.0, 400.0), 15.0
FLOOR_OD = 0.12
"""Least haematoxylin of a nucleus, so that a patch without nuclei is not split by Otsu's threshold."""


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of one patch.

    Args:
        count: how many, those cut by the patch's edge as halves.
        areas: µm² of those that lie inside, float64 (n,).
        extent: area of the patch in mm².
    """

    count: float
    areas: np.ndarray
    extent: float


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


def find_nuclei(
    rgb: np.ndarray, mpp: float, *, stains: str = "h-e", background: tuple[float, float, float] = WHITE
) -> Nuclei:
    """Count and measure the nuclei of a patch.

    Args:
        rgb: uint8 (h, w, 3).
        mpp: its µm/px, at most 1.
        stains: "h-e" for H&E, "h-dab" for IHC with DAB.
        background: colour of bare glass.

    Raises:
        InvalidValueError: µm/px too coarse to see nuclei.
    """
    labels = label_nuclei(rgb, mpp, stains=stains, background=background)
    areas = np.bincount(labels.ravel())[1:] * mpp**2
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inside = np.ones(len(areas), bool)
    inside[border[border > 0] - 1] = False
    extent = labels.size * mpp**2 / 1e6
    return Nuclei(float(inside.sum() + (~inside).sum() / 2), areas[inside].astype(np.float64), extent)


def label_nuclei(
    rgb: np.ndarray, mpp: float, *, stains: str = "h-e", background: tuple[float, float, float] = WHITE
) -> np.ndarray:
    """Which pixel belongs to which nucleus: int32 (h, w), 0 for none. Arguments as for `find_nuclei`."""
    if not 0 < mpp <= COARSEST_MPP:
        raise InvalidValueError(f"nuclei need at most {COARSEST_MPP:g} µm/px, got {mpp:g}")
    density = np.ascontiguousarray(stain_densities(rgb, background, stains)[..., 0])
    smooth = cv2.GaussianBlur(density, (0, 0), max(0.5, SMOOTHING_UM / mpp))
    threshold = max(FLOOR_OD, float(threshold_otsu(smooth))) if np.ptp(smooth) > 0 else np.inf
    around = cv2.GaussianBlur(density, (0, 0), SURROUNDINGS_UM / mpp)
    mask = _cleaned(smooth > np.maximum(threshold, around), mpp)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    labels = watershed(-depth, _seeds(depth, mpp), mask=mask.astype(bool))
    return _renumbered(labels, mpp)


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


def _seeds(depth: np.ndarray, mpp: float) -> np.ndarray:
    """One marker per nucleus: the deepest place within 2 µm; smoothed, since a flat middle has many."""
    reach = max(1, round(SEED_UM / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    smooth = cv2.GaussianBlur(depth, (0, 0), max(0.5, SMOOTHING_UM / mpp))
    peaks = (smooth >= cv2.dilate(smooth, disk)) & (depth > 0)
    return cv2.connectedComponents(peaks.astype(np.uint8), connectivity=8)[1]


def _cleaned(mask: np.ndarray, mpp: float) -> np.ndarray:
    """Without specks, and without the holes inside nuclei; larger gaps between them stay."""
    kept = _parts(mask, AREA_UM2[0] / mpp**2, np.inf)
    return (kept | _parts(~kept, 0, HOLE_UM2 / mpp**2)).astype(np.uint8)


def _parts(mask: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    """The connected parts with an area within these bounds, in pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA]
    keep = (areas >= smallest) & (areas <= largest)
    keep[0] = False
    return keep[np.asarray(labels, dtype=np.int32)]


def _renumbered(labels: np.ndarray, mpp: float) -> np.ndarray:
    """Without what is too small or too large for a nucleus; numbers from 1 without gaps."""
    areas = np.bincount(labels.ravel()) * mpp**2
    keep = (areas >= AREA_UM2[0]) & (areas <= AREA_UM2[1])
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


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
