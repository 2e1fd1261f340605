"""Find tissue, and the colour of the background, on an image of a few µm/px."""

from __future__ import annotations

import cv2
import numpy as np

from wsigen.geometry import Colour, Size

MASK_MPP = 8.0
SMALLEST_MASK = 64
# Bounds of the threshold in optical density: below the floor is dirt; above the ceiling Otsu would split the
# tissue of an image that shows nothing else.
FLOOR, CEILING = 0.03, 0.05
WHITE = 243.0
BACKGROUND_DARKEST, BACKGROUND_SPREAD = 222, 14
SPECK_UM2, HOLE_UM2, BLACK_UM2 = 8_000.0, 20_000.0, 20_000.0
# Nothing larger than this share of the image is a speck or a hole, however small the image.
SMALL_SHARE = 0.02
GAP_UM, REACH_UM = 24.0, 60.0
COLOURED = 8
GREY_SPREAD, GREY_PIXELS = 4, 64
BLACK_BRIGHTEST, BLACK_SPREAD = 60, 18
PEN_UM2 = 20_000.0


def mask_resolution(mpp: float, size: Size) -> float:
    """Return µm/px at which to look for tissue: 8, or finer where the mask would be under 64 px wide.

    Args:
        mpp: of the slide.
        size: of the slide, px.
    """
    return max(mpp, min(MASK_MPP, mpp * min(size.height, size.width) / SMALLEST_MASK))


def tissue_mask(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Return where there is tissue, without pen, black areas, specks and small holes.

    Otsu's threshold on the optical density of the most absorbed colour, relative to the background, clipped
    to fixed bounds: so a blank slide has no tissue, and a crop full of tissue is all tissue. Shades of grey
    without any colour nearby are the edge of the slide or of the scan.

    Args:
        rgb: uint8 (height, width, 3).
        mpp: its µm/px; 8–16 is best.

    Returns:
        bool (height, width).
    """
    from skimage.filters import threshold_otsu  # takes a quarter of a second with what it needs

    density = _density(rgb, mpp)
    artefact = black_areas(rgb, mpp) | _pen(rgb, mpp)
    usable = density[~artefact]
    threshold = float(np.clip(threshold_otsu(usable), FLOOR, CEILING)) if usable.size else CEILING
    coloured = _coloured(rgb, mpp)
    near_colour = cv2.dilate(coloured.astype(np.uint8), _disk(round(REACH_UM / mpp))).astype(bool)
    mask = (density > threshold) & ~artefact & near_colour
    mask = _close(mask, GAP_UM / mpp) & ~artefact
    mask = _drop_small(mask, SPECK_UM2 / mpp**2, counted=coloured)
    return _fill(mask, HOLE_UM2 / mpp**2) & ~artefact if mask.any() else mask


def background_colour(rgb: np.ndarray, mask: np.ndarray) -> Colour | None:
    """Return the background colour: the median of what is bright, grey and at some distance from tissue.

    Args:
        rgb: uint8 (height, width, 3).
        mask: its tissue.

    Returns:
        A uint8 triple, or None where less than 0.5 % of the image is background.
    """
    empty = ~_grown(mask, 2) & _background_like(rgb)
    if empty.sum() < max(16, 0.005 * empty.size):
        return None
    red, green, blue = np.median(rgb[empty], axis=0)
    return round(red), round(green), round(blue)


def drop_specks(mask: np.ndarray, mpp: float) -> np.ndarray:
    """Return a mask without its smallest parts, such as dust: under 8,000 µm² and 2 % of the image.

    Args:
        mask: bool (height, width).
        mpp: its µm/px.
    """
    return _drop_small(mask, SPECK_UM2 / mpp**2)


def is_grey(pixels: np.ndarray) -> bool:
    """Return whether what is darker than glass has no colour, but for what compression adds.

    Args:
        pixels: uint8 (..., 3), at a few µm/px.

    Returns:
        False where fewer than 64 pixels are darker than glass.
    """
    pixels = pixels[pixels.min(axis=-1) < BACKGROUND_DARKEST]
    if len(pixels) < GREY_PIXELS:  # a few averages may be almost grey by chance
        return False
    darkest, brightest = pixels.min(axis=1), pixels.max(axis=1)
    return bool(np.percentile(brightest - darkest, 99) <= GREY_SPREAD)


def border_fraction(mask: np.ndarray) -> float:
    """Return the share of an image's outermost pixels that are tissue."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(border.mean()) if border.size else 0.0


def _density(rgb: np.ndarray, mpp: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(rgb, (0, 0), 8.0 / mpp) if mpp < 16 else rgb
    empty = _background_like(smooth)
    white = np.full(3, WHITE) if empty.mean() < 0.005 else np.median(smooth[empty], axis=0)
    # The darkest channel is the one of highest density: one logarithm per pixel instead of three.
    darkest, _ = _extremes(smooth.astype(np.float32) / white.astype(np.float32))
    return -np.log10(np.maximum(darkest, 1 / 255))


def _extremes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Many times faster than a reduction over axis 2.
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _background_like(rgb: np.ndarray) -> np.ndarray:
    darkest, brightest = _extremes(rgb)
    return (darkest >= BACKGROUND_DARKEST) & (brightest - darkest <= BACKGROUND_SPREAD)


def _coloured(rgb: np.ndarray, mpp: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(rgb, (0, 0), max(1.0, 16.0 / mpp))
    darkest, brightest = _extremes(smooth)
    return brightest - darkest >= COLOURED


def black_areas(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Return large black areas, such as places that a scanner left out: 20,000 µm² or 2 % of the image.

    Args:
        rgb: uint8 (height, width, 3).
        mpp: its µm/px.

    Returns:
        bool (height, width), with two pixels around each.
    """
    darkest, brightest = _extremes(rgb)
    black = (brightest < BLACK_BRIGHTEST) & (brightest - darkest < BLACK_SPREAD)
    return _grown(_drop_small(black, BLACK_UM2 / mpp**2), 2)


def _pen(rgb: np.ndarray, mpp: float) -> np.ndarray:
    # Yellow-green to blue inks, more saturated than any stain; OpenCV gives hue in units of 2 degrees.
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    ink = (hue >= 40) & (hue <= 122) & (saturation > 120)
    return _grown(_drop_small(ink, PEN_UM2 / mpp**2), 3)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=pixels) if mask.any() else mask


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    reach = round(radius)
    if reach < 1:
        return mask
    # Padded; otherwise tissue near the edge of the image would be extended to it.
    padded = np.pad(mask.astype(np.uint8), reach)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disk(reach))
    return closed[reach:-reach, reach:-reach].astype(bool)


def _disk(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _drop_small(mask: np.ndarray, pixels: float, counted: np.ndarray | None = None) -> np.ndarray:
    """Keep the connected parts with at least so many pixels (of those ``counted``)."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    labels = np.asarray(labels, np.intp)
    area = np.bincount(labels.ravel() if counted is None else labels[counted], minlength=count)
    large = area >= min(pixels, SMALL_SHARE * mask.size)
    large[0] = False  # label 0 is what the mask leaves out
    return large[labels]


def _fill(mask: np.ndarray, pixels: float) -> np.ndarray:
    return ~_drop_small(~mask, pixels)
