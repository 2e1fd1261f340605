"""Signatures of patches that ignore colour, sharpness and orientation: to find copies of real images.

A signature is the patch's mean optical density at 32 × 32, smoothed by one cell, less its local mean and over
its local deviation (4 cells). Changes of stain, brightness and contrast, blur, noise and JPEG hardly change
it; the distance is 1 - correlation at the best of the 8 orientations. On real slides unrelated patches are
mostly at 0.5 or more, copies below 0.1, copies shifted by half a cell (1/64 of the patch) below 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.slide.stains import mean_density, require_rgb

SIDE, SMOOTH, SURROUNDINGS = 32, 1.0, 4.0
ORIENTATIONS = 8
# A signature shorter than this (before it is normalised) is that of background, and matches nothing
BLANK = 0.3
# A signature with a smaller share of its cells in play is that of a speck, which resembles any other
DISTINCT = 0.1
_LEAST = 0.03  # OD added to the local deviation, so that the texture of background and flat areas stays small
_CHUNK = 256


@dataclass(frozen=True)
class Nearest:
    """The nearest item of a gallery to each query.

    Args:
        distance: float32 (n,).
        index: which of the gallery, int (n,).
        orientation: how the query must be turned to match it: k quarter turns counterclockwise, after a flip
            of left and right if 4 is added; int (n,).
    """

    distance: np.ndarray
    index: np.ndarray
    orientation: np.ndarray


def signature(patch: np.ndarray) -> np.ndarray:
    """Return the signature of one patch.

    Args:
        patch: uint8 (h, w, 3), at least 32 px; it is squeezed to a square.

    Returns:
        float32 (32, 32), mean 0 and length 1 (all 0 for a blank patch).
    """
    if min(patch.shape[:2]) < SIDE:
        raise InvalidValueError(f"a signature needs at least {SIDE} px, got {patch.shape}")
    contrast = local_contrast(cv2.resize(patch, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    centred = contrast - contrast.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > BLANK else np.zeros_like(centred)


def local_contrast(rgb: np.ndarray) -> np.ndarray:
    """Return density relative to its surroundings, in local deviations, of an image with one pixel per cell.

    Args:
        rgb: uint8 (h, w, 3), for instance an overview at 1/16 of the patches' size when those have 512 px.

    Returns:
        float32 (h, w).
    """
    require_rgb(rgb, 3)
    density = mean_density(rgb)
    smooth = cv2.GaussianBlur(density, (0, 0), SMOOTH)
    apart = smooth - cv2.GaussianBlur(smooth, (0, 0), SURROUNDINGS)
    # dividing by it makes contrast of stain irrelevant
    deviation = np.sqrt(cv2.GaussianBlur(apart * apart, (0, 0), SURROUNDINGS))
    return apart / (deviation + _LEAST)


def distinct(signatures: np.ndarray) -> np.ndarray:
    """Return which signatures can be recognised, bool (n,); of tissue nearly all.

    The share of cells that take part is 1 / Σ p⁴ over their number: 1/3 of normally distributed ones.
    """
    flat = signatures.reshape(len(signatures), SIDE * SIDE).astype(np.float64)
    # signatures have length 1: Σ p⁴ is the inverse of the number of cells that matter
    share = 1 / np.maximum((flat**4).sum(axis=1), 1e-12) / flat.shape[1]
    return (share >= DISTINCT) & flat.any(axis=1)


def turned(maps: np.ndarray, orientation: int) -> np.ndarray:
    """Turn maps (n, s, s) to one of the 8 orientations: flipped left to right if 4 or more, then rotated."""
    flipped = maps[:, :, ::-1] if orientation >= 4 else maps
    return np.ascontiguousarray(np.rot90(flipped, orientation % 4, (1, 2)))


def signature_distances(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - correlation at the best orientation, for all pairs.

    Args:
        queries: signatures (n, 32, 32).
        gallery: signatures (m, 32, 32).

    Returns:
        Distances float32 (n, m) in [0, 2], and orientations int8 (n, m).

    Memory: three matrices n × m of float32; `nearest_signatures` needs no such matrix.
    """
    best = np.full((len(queries), len(gallery)), -np.inf, np.float32)
    orientation = np.zeros(best.shape, np.int8)
    columns = gallery.reshape(len(gallery), -1).T
    for k in range(ORIENTATIONS):
        match = turned(queries, k).reshape(len(queries), -1) @ columns
        better = match > best
        best[better], orientation[better] = match[better], k
    return np.clip(1 - best, 0, 2), orientation


def nearest_signatures(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_slides: np.ndarray | None = None,
    gallery_slides: np.ndarray | None = None,
) -> Nearest:
    """Return the nearest of a gallery to each query, in any orientation.

    Args:
        queries: signatures (n, 32, 32).
        gallery: signatures (m, 32, 32), m ≥ 1.
        query_slides: one label per query; with ``gallery_slides``, patches of one slide are not compared. So
            the distances of real patches to real ones are not those of overlapping neighbours.
        gallery_slides: one label per patch of the gallery.

    Memory: two matrices of 256 × m.
    """
    if not len(gallery):
        raise InvalidValueError("there is nothing to compare with: the gallery has no patches")
    parts = []
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distance, orientation = signature_distances(queries[rows], gallery)
        if query_slides is not None and gallery_slides is not None:
            distance[query_slides[rows, None] == gallery_slides[None]] = np.inf
        index = distance.argmin(axis=1)
        each = np.arange(len(index))
        parts.append((distance[each, index], index, orientation[each, index].astype(int)))
    columns = zip(*parts, strict=True) if parts else ((np.empty(0, t),) for t in (np.float32, int, int))
    return Nearest(*(np.concatenate(column) for column in columns))
