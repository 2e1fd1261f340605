"""Where there is tissue, and what colour the glass is, on an image of a few µm/px."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

Background = tuple[int, int, int]

FINEST_MASK_MPP = 8.0
FLOOR, CEILING = (
    0.025,
    0.06,
)  # of colourfulness: paler is dirt on glass; tissue that fills the image splits above
SPECK_UM2, HOLE_UM2 = 8_000.0, 20_000.0
GAP_UM = 24.0
BLACK = 70
GLASS_DARKEST = 200
PEN_UM2 = 20_000.0


def mask_resolution(mpp: float) -> float:
    """µm/px at which to look for tissue on a slide of ``mpp``: 8, or its own if coarser."""
    return max(FINEST_MASK_MPP, mpp)


def tissue_mask(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Tissue, without pen, black areas, specks and small holes.

    Otsu's threshold on colourfulness (the spread of the optical density over the colours, after white balance on the
    glass), held within fixed bounds: a blank slide has no tissue, a crop full of tissue is all tissue.

    Args:
        rgb: uint8 (height, width, 3).
        mpp: its µm/px; 8–16 is best.

    Returns:
        bool (height, width).
    """
    colour = _colourfulness(rgb, mpp)
    artefact = _black(rgb) | _pen(rgb, mpp)
    usable = colour[~artefact]
    if usable.size == 0 or float(np.ptp(usable)) < 1e-6:
        return np.zeros(rgb.shape[:2], bool) | (~artefact & (colour > CEILING))
    threshold = float(np.clip(threshold_otsu(usable), FLOOR, CEILING))
    mask = (colour > threshold) & ~artefact
    mask = _close(mask, GAP_UM / mpp) & ~artefact
    return _fill(_drop_small(mask, SPECK_UM2 / mpp**2), HOLE_UM2 / mpp**2) & ~artefact


def background_colour(rgb: np.ndarray, mask: np.ndarray) -> Background | None:
    """Colour of bare glass: the median of what is bright, colourless and not next to tissue.

    Args:
        rgb: uint8 (height, width, 3).
        mask: its tissue.

    Returns:
        A uint8 triple, or None where less than 0.5 % of the image is glass.
    """
    glass = ~ndimage.binary_dilation(mask, iterations=2) & (rgb.min(axis=2) >= GLASS_DARKEST)
    if glass.sum() < max(16, 0.005 * glass.size):
        return None
    red, green, blue = np.median(rgb[glass], axis=0)
    return round(red), round(green), round(blue)


def border_fraction(mask: np.ndarray) -> float:
    """Share of an image's outermost pixels that are tissue."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(border.mean()) if border.size else 0.0


def _colourfulness(rgb: np.ndarray, mpp: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(rgb, (0, 0), max(0.5, 8.0 / mpp)) if mpp < 16 else rgb
    density = -np.log10((smooth.astype(np.float32) + 1) / 256)
    bright = smooth.min(axis=2) >= GLASS_DARKEST
    spread = density.max(axis=2) - density.min(axis=2)
    glass = bright & (spread < CEILING)
    if glass.sum() > 0.05 * glass.size:
        density = density - np.median(density[glass], axis=0)
    return density.max(axis=2) - density.min(axis=2)


def _black(rgb: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(rgb.max(axis=2) < BLACK, iterations=2)


def _pen(rgb: np.ndarray, mpp: float) -> np.ndarray:
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))  # hue in units of 2 degrees
    ink = (hue >= 40) & (hue <= 122) & (saturation > 120)
    ink = _drop_small(ink, PEN_UM2 / mpp**2)
    return ndimage.binary_dilation(ink, iterations=3) if ink.any() else ink


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    reach = round(radius)
    if reach < 1:
        return mask
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    padded = np.pad(mask.astype(np.uint8), reach)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)
    return closed[reach:-reach, reach:-reach].astype(bool)


def _drop_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= pixels
    large[0] = False
    return large[labels]


def _fill(mask: np.ndarray, pixels: float) -> np.ndarray:
    return ~_drop_small(~mask, pixels)
