"""Describe a patch without weights: by colour, stains and texture, offline and the same on any machine.

It is a fixed function, no network: it sees colour, amounts of stain and how texture is distributed over
scales (blur, noise, checkerboards, wrong colour, missing nuclei), and does not see what the texture depicts.
Distances between its features compare with each other only, **never with published FIDs**.

The image in optical density (Ruifrok & Johnston 2001), rotated to one luminance and two chroma axes, is split
into five bands by the Laplacian pyramid of Burt & Adelson 1983. Of each band the joint statistics of
Portilla & Simoncelli 2000 that need no phase are kept: energy, skewness, sparsity, correlation between
channels and between scales. Stain vectors are those of Macenko et al. 2009.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np

from wsigen.slide.stains import EOSIN, HAEMATOXYLIN, density_table, require_rgb, unmixing

BANDS, SMALLEST = 5, 64
_OPPONENT = (np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])).astype(np.float32)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PAIRS = ((0, 1), (0, 2), (1, 2))
# Added to energies before the logarithm: the OD of rounding to 8 bit; below it there is no texture
_FLOOR = 0.004

_TISSUE_OD = 0.15  # Macenko's β: mean OD from which a pixel has a stain direction
# Weight of the book's stain vectors, as a share of pixels, so that background has a stain direction too
_PRIOR = 0.05


class WeightFree:
    """The weight-free extractor.

    Features are grouped: colour (9), densities of H, E and DAB at five quantiles (15), two stain vectors (6),
    then for each of five bands energies, skewness, sparsity and correlations of the three channels and the
    anisotropy (13), correlations of energy between bands (4), and what is left below the bands (3). Each
    group has one fixed factor, by which it varies about as much as the others between patches of real tissue.

    Determinism: a function of the pixels.

    Args:
        threads: patches described at once.
    """

    name = "weight-free"
    dimensions = 9 + 15 + 6 + BANDS * 13 + (BANDS - 1) + 3
    comparable = False

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Describe patches.

        Args:
            patches: uint8 (n, h, w, 3), h and w at least 64.

        Returns:
            float32 (n, 102).

        Raises:
            InvalidValueError: patches that are too small or not uint8 RGB.
        """
        require_rgb(patches, 4, side=SMALLEST, what="patches")
        if self._threads == 1 or len(patches) < 2:
            return np.stack([describe(patch) for patch in patches])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.stack(list(pool.map(describe, patches)))


def describe(patch: np.ndarray) -> np.ndarray:
    """Return the features of one patch, uint8 (h, w, 3): float32 (102,)."""
    levels = np.stack(cv2.split(patch))
    density = cv2.LUT(levels, np.ascontiguousarray(density_table()[:, 0])).reshape(3, -1)
    pyramid = [(_OPPONENT @ density).reshape(levels.shape)]
    for _ in range(BANDS):
        pyramid.append(np.stack([_halved(plane) for plane in pyramid[-1]]))
    # the axes are orthonormal: the transpose leads back to density; at a quarter of the size for speed
    quarter = _OPPONENT.T @ pyramid[2].reshape(3, -1)
    parts = [_colour(pyramid[0]), _quantiles(quarter), _stain_vectors(quarter), *_texture(pyramid)]
    return np.concatenate(parts).astype(np.float32)


def _halved(plane: np.ndarray) -> np.ndarray:
    """Halve by the kernel [1 3 3 1]/8, centred between pixels: so flips and turns commute with it."""
    height, width = plane.shape
    return cv2.resize(
        cv2.GaussianBlur(plane, (3, 3), 0),
        ((width + 1) // 2, (height + 1) // 2),
        interpolation=cv2.INTER_AREA,
    )


def _colour(opponent: np.ndarray) -> np.ndarray:
    mean = opponent.reshape(3, -1).mean(axis=1, dtype=np.float64)
    covariance = _moments(opponent) - np.outer(mean, mean)
    return np.concatenate([4 * mean, _energies(covariance), _correlations(covariance)])


def _quantiles(density: np.ndarray) -> np.ndarray:
    """Return quantiles of the densities of H, E and DAB, at a quarter of the size."""
    ordered = np.sort(unmixing("h-e-dab").T @ density, axis=1)
    places = np.round(np.asarray(_QUANTILES) * (ordered.shape[1] - 1)).astype(int)
    return 4 * ordered[:, places].T.ravel()


def _stain_vectors(density: np.ndarray) -> np.ndarray:
    """Return the two extreme directions of OD in their plane of greatest extent, Macenko et al. 2009.

    The less tissue there is, the closer they are to the book's, which background has.
    """
    pixels = density.T.astype(np.float64)
    tissue, book = pixels[pixels.mean(axis=1) > _TISSUE_OD], np.asarray([HAEMATOXYLIN, EOSIN])
    share = len(tissue) / (len(tissue) + _PRIOR * len(pixels))
    if len(tissue) < 3:
        return 8 * book.ravel()
    # the two directions of greatest extent, turned to positive density
    plane = np.linalg.eigh(tissue.T @ tissue)[1][:, :0:-1]
    plane *= np.where(plane[:1].sum(axis=0) < 0, -1, 1)
    angles = np.sort(np.arctan2(tissue @ plane[:, 1], tissue @ plane[:, 0]))
    # the 1st and 99th percentile: robust extremes
    ends = angles[[len(angles) // 100, len(angles) - 1 - len(angles) // 100]]
    found = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    # haematoxylin absorbs more red than eosin
    found = found[np.argsort(-found[:, 0])]
    return 8 * (share * found + (1 - share) * book).ravel()


def _texture(pyramid: list[np.ndarray]) -> list[np.ndarray]:
    """Return statistics of each band, of neighbouring bands, and of what is below them."""
    parts, energies = [], []
    for image, smaller in pairwise(pyramid):
        band = np.stack([_detail(*planes) for planes in zip(image, smaller, strict=True)])
        parts += [_band(band), _anisotropy(image[0])]
        energies.append(np.abs(band[0]))
    between = [_agreement(fine, coarse) for fine, coarse in pairwise(energies)]
    rest = pyramid[-1] - pyramid[-1].mean(axis=(1, 2), keepdims=True)
    return [*parts, 4 * np.array(between), _energies(_moments(rest))]


def _detail(plane: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    return cv2.subtract(plane, cv2.resize(smaller, plane.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _band(band: np.ndarray) -> np.ndarray:
    """Return energy, skewness, sparsity and correlations of three channels; a band's mean is about 0."""
    moments, planes = _moments(band), band.reshape(3, -1)
    spread = np.sqrt(np.diag(moments)) + _FLOOR
    # the cube root brings the third moment to the unit of the second's root
    skewness = np.cbrt(np.einsum("cn,cn->c", planes * planes, planes) / planes.shape[1]) / spread
    sparsity = np.log(spread / (np.abs(planes).mean(axis=1) + _FLOOR))
    return np.concatenate([_energies(moments), skewness, 6 * sparsity, _correlations(moments)])


def _moments(image: np.ndarray) -> np.ndarray:
    """Return second moments of the channels, (3, 3)."""
    planes = image.reshape(len(image), -1)
    return (planes @ planes.T).astype(np.float64) / planes.shape[1]


def _energies(covariance: np.ndarray) -> np.ndarray:
    return np.log2(np.sqrt(np.maximum(np.diag(covariance), 0)) + _FLOOR)


def _correlations(covariance: np.ndarray) -> np.ndarray:
    """Correlate the three pairs of channels; towards 0 where a channel has no more than rounding."""
    spread = np.sqrt(np.maximum(np.diag(covariance), 0) + _FLOOR**2)
    return np.array([2 * covariance[i, j] / (spread[i] * spread[j]) for i, j in _PAIRS])


def _anisotropy(luminance: np.ndarray) -> np.ndarray:
    """Return coherence of the structure tensor of the whole patch: 0 isotropic, 1 one direction only."""
    dy, dx = cv2.Sobel(luminance, -1, 0, 1), cv2.Sobel(luminance, -1, 1, 0)
    yy, xx, yx = (float(np.vdot(a, b)) / a.size for a, b in ((dy, dy), (dx, dx), (dy, dx)))
    return np.array([4 * np.hypot(xx - yy, 2 * yx) / (xx + yy + _FLOOR**2)])


def _agreement(fine: np.ndarray, coarse: np.ndarray) -> float:
    """Correlate two bands' magnitudes."""
    fine = cv2.resize(fine, coarse.shape[::-1], interpolation=cv2.INTER_AREA).ravel()
    fine, coarse = fine - fine.mean(), coarse.ravel() - coarse.mean()
    return float(fine @ coarse / np.sqrt((fine @ fine + _FLOOR**2) * (coarse @ coarse + _FLOOR**2)))
