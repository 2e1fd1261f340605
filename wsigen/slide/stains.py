"""Stain as numbers: densities of haematoxylin, eosin and DAB, their distributions, and the hue.

Colour deconvolution, Ruifrok & Johnston 2001 (Anal. Quant. Cytol. Histol. 23(4)): by Lambert-Beer the optical
density OD = -log10(I / I_0) is linear in the amount of stain, OD = C M with one unit row of M per stain
(their table of normalised OD vectors); so C = OD M⁻¹. Where only two stains are present, the third row
is the direction perpendicular to both, and its amount is the residual that they do not explain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from wsigen.errors import InvalidValueError

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DAB = (0.27, 0.57, 0.78)
WHITE = (255.0, 255.0, 255.0)

# Histograms of densities: bins of 0.01 OD; what lies outside is counted in the first or last bin
DENSITY_BINS, DENSITY_TOP = 256, 2.56

POSITIVE_DAB = 0.2  # DAB density from which a pixel counts as stained

HUE_BINS, HUE_TOP = 10, 256.0

_STAINS = {
    "h-e-dab": (HAEMATOXYLIN, EOSIN, DAB),
    "h-e": (HAEMATOXYLIN, EOSIN, None),
    "h-dab": (HAEMATOXYLIN, None, DAB),
}


def stain_densities(
    rgb: np.ndarray, background: tuple[float, float, float] = WHITE, stains: str = "h-e-dab"
) -> np.ndarray:
    """Amount of each stain at each pixel, in optical density along the stain's unit vector.

    Unmixing can give small negative amounts; they are left as they are, so that means are unbiased.

    Args:
        rgb: uint8 (..., 3).
        background: colour of the empty slide, grey levels in (0, 255]; what is brighter has density 0.
        stains: "h-e-dab" (H, E, DAB), "h-e" (H, E, residual) or "h-dab" (H, residual, DAB). A stain's
            channel is the same in all of them.

    Returns:
        float32 (..., 3): H, E, DAB.

    Raises:
        InvalidValueError: not uint8 RGB, an unknown set of stains, or a background that is not a colour.
    """
    require_rgb(rgb)
    if stains not in _STAINS:
        raise InvalidValueError(f"stains must be one of {', '.join(_STAINS)}, got {stains!r}")
    if len(background) != 3 or not all(0 < level <= 255 for level in background):
        raise InvalidValueError(f"background must be three grey levels in (0, 255], got {background}")
    return cv2.transform(optical_density(rgb, background).reshape(-1, 1, 3), unmixing(stains).T).reshape(
        rgb.shape
    )


def optical_density(rgb: np.ndarray, background: tuple[float, float, float] = WHITE) -> np.ndarray:
    """OD = -log10(I / I_0) per channel, at least 0; grey level 0 counts as 1.

    Args:
        rgb: uint8 (..., 3).
        background: I_0, colour of the empty slide, grey levels in (0, 255].

    Returns:
        float32 (..., 3), in [0, 2.41].
    """
    return cv2.LUT(rgb.reshape(-1, 1, 3), density_table(background)[None]).reshape(rgb.shape)


def mean_density(rgb: np.ndarray) -> np.ndarray:
    """Mean of the channels' optical density relative to white, float32 (h, w), of uint8 (h, w, 3)."""
    density = cv2.LUT(rgb, np.ascontiguousarray(density_table()[:, 0]))
    total = density[..., 0] + density[..., 1]  # the same to the last bit as mean(axis=-1), many times as fast
    total += density[..., 2]
    total /= 3
    return total


def density_table(background: tuple[float, float, float] = WHITE) -> np.ndarray:
    """Optical density of each grey level, float32 (256, 3)."""
    levels = np.maximum(np.arange(256), 1)[:, None]
    return np.maximum(-np.log10(levels / np.asarray(background, np.float64)), 0).astype(np.float32)


@lru_cache
def unmixing(stains: str) -> np.ndarray:
    """M⁻¹ for "h-e-dab", "h-e" or "h-dab", float32 (3, 3): densities = OD M⁻¹.

    M's rows have length 1; a missing stain's row is perpendicular to the others.
    """
    rows = [None if v is None else np.asarray(v) / np.linalg.norm(v) for v in _STAINS[stains]]
    present = [row for row in rows if row is not None]
    if len(present) == 2:
        residual = np.cross(present[0], present[1])
        rows = [residual / np.linalg.norm(residual) if row is None else row for row in rows]
    return np.linalg.inv(np.stack(rows)).astype(np.float32)  # pyright: ignore[reportArgumentType, reportCallIssue]


@dataclass(frozen=True)
class DensitySummary:
    """Amount of one stain in an image; summaries of patches add up to the summary of their union.

    Args:
        pixels: how many pixels were counted.
        total: sum of their densities.
        positive: how many reach the threshold.
        counts: pixels by density, int64 (256,), in bins of 0.01 OD; the outer bins hold what is beyond.
        threshold: density from which a pixel is positive.
    """

    pixels: int
    total: float
    positive: int
    counts: np.ndarray
    threshold: float

    def __add__(self, other: DensitySummary) -> DensitySummary:
        if self.threshold != other.threshold:
            raise InvalidValueError(
                f"summaries with different thresholds do not add up: {self.threshold} and {other.threshold}"
            )
        return DensitySummary(
            self.pixels + other.pixels,
            self.total + other.total,
            self.positive + other.positive,
            self.counts + other.counts,
            self.threshold,
        )

    @property
    def mean(self) -> float:
        """Mean density, OD."""
        return self.total / self.pixels

    @property
    def p90(self) -> float:
        """Density below which nine tenths of the pixels lie, OD, to within a bin (0.01)."""
        return self.percentile(0.9)

    @property
    def positive_ratio(self) -> float:
        """Share of the pixels that reach the threshold, in [0, 1]."""
        return self.positive / self.pixels

    @property
    def histogram(self) -> np.ndarray:
        """Share of the pixels in each bin, float64 (256,)."""
        return self.counts / self.pixels

    def percentile(self, share: float) -> float:
        """Density below which ``share`` (in [0, 1]) of the pixels lie, interpolated within its bin."""
        cumulative = np.concatenate([[0], np.cumsum(self.counts)]) / self.pixels
        edges = np.linspace(0, DENSITY_TOP, DENSITY_BINS + 1)
        bin_ = min(max(int(np.searchsorted(cumulative, share)) - 1, 0), DENSITY_BINS - 1)
        within = (share - cumulative[bin_]) / max(cumulative[bin_ + 1] - cumulative[bin_], 1e-300)
        return float(edges[bin_] + min(max(within, 0.0), 1.0) * (edges[bin_ + 1] - edges[bin_]))


def density_summary(
    density: np.ndarray, threshold: float = POSITIVE_DAB, mask: np.ndarray | None = None
) -> DensitySummary:
    """Mean, 90th percentile, positive-area ratio and histogram of one stain's density.

    Args:
        density: OD, any shape.
        threshold: density from which a pixel is positive.
        mask: bool, same shape: the pixels that count (say, tissue). None: all.

    Raises:
        InvalidValueError: no pixels are left.
    """
    values = np.asarray(density, np.float32)[mask] if mask is not None else np.asarray(density).ravel()
    if not values.size:
        raise InvalidValueError("no pixels to summarise: the mask (or the image) is empty")
    bins = np.clip(values * (DENSITY_BINS / DENSITY_TOP), 0, DENSITY_BINS - 1).astype(np.int64)
    return DensitySummary(
        pixels=values.size,
        total=float(values.sum(dtype=np.float64)),
        positive=int(np.count_nonzero(values >= threshold)),
        counts=np.bincount(bins, minlength=DENSITY_BINS),
        threshold=threshold,
    )


def dab_summary(
    rgb: np.ndarray,
    background: tuple[float, float, float] = WHITE,
    threshold: float = POSITIVE_DAB,
    mask: np.ndarray | None = None,
) -> DensitySummary:
    """`density_summary` of the DAB of an IHC image, unmixed from haematoxylin.

    Args:
        rgb: uint8 (..., 3).
        background: colour of the empty slide.
        threshold: DAB density from which a pixel is positive.
        mask: bool (...): the pixels that count. None: all.
    """
    return density_summary(stain_densities(rgb, background, "h-dab")[..., 2], threshold, mask)


def kl_divergence(p: np.ndarray, q: np.ndarray, *, smoothing: float = 1e-3) -> float:
    """KL(p ‖ q) = Σ p log(p / q) in nats, of two histograms over the same bins.

    Both are normalised and mixed with the uniform distribution, (1 - λ) p + λ/K, since an empty bin of q
    would make it infinite; so it is at most log(K / λ) and does not depend on how many pixels were counted.

    Args:
        p: counts or shares, the distribution that should be matched (real).
        q: the same for the other one (generated).
        smoothing: λ in (0, 1).

    Raises:
        InvalidValueError: different shapes, negative or no counts, or λ outside (0, 1).
    """
    p, q = np.asarray(p, np.float64).ravel(), np.asarray(q, np.float64).ravel()
    if p.shape != q.shape or not p.size or min(p.min(), q.min()) < 0 or not (p.sum() > 0 and q.sum() > 0):
        raise InvalidValueError(
            f"KL needs two histograms over the same bins with counts in them, got {p.size} and {q.size} bins "
            f"with sums {p.sum():g} and {q.sum():g}"
        )
    if not 0 < smoothing < 1:
        raise InvalidValueError(f"smoothing must be in (0, 1), got {smoothing}")
    p, q = ((1 - smoothing) * h / h.sum() + smoothing / h.size for h in (p, q))
    return float(p @ np.log(p / q))


def hue_histogram(rgb: np.ndarray) -> np.ndarray:
    """Histogram of the HSV hue as KIN and DN compute it: 10 bins on [0, 256], L2-normalised.

    Hue is 8-bit as in OpenCV (half degrees, 0 … 179), so the last three bins stay empty.

    Args:
        rgb: uint8 (..., 3).

    Returns:
        float64 (10,), of length 1.
    """
    require_rgb(rgb)
    hue = cv2.cvtColor(rgb.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[..., 0]  # many short rows would be slow
    by_hue = np.bincount(hue.ravel(), minlength=256)  # ten times as fast as the histogram of all pixels
    counts, _ = np.histogram(np.arange(256), HUE_BINS, (0, HUE_TOP), weights=by_hue)
    return counts / np.linalg.norm(counts)


def saturation(rgb: np.ndarray) -> float:
    """Mean saturation of HSV, (largest - smallest) / largest of a pixel's three levels, in [0, 1].

    Args:
        rgb: uint8 (..., 3).
    """
    require_rgb(rgb)
    return float(cv2.cvtColor(rgb.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[..., 1].mean()) / 255


def hue_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two images' hue histograms, in [-1, 1]; 1 = same hues.

    Args:
        a: uint8 (..., 3).
        b: uint8 (..., 3); the images need not have one size.
    """
    return correlation(hue_histogram(a), hue_histogram(b))


def haematoxylin_correlation(
    he: np.ndarray,
    ihc: np.ndarray,
    *,
    blur: float = 2.0,
    mask: np.ndarray | None = None,
    background: tuple[float, float, float] = WHITE,
) -> float:
    """Correlate the haematoxylin of an H&E image with that of its IHC image: are nuclei at the same places?

    Pearson over pixels, of H unmixed from H-E and H unmixed from H-DAB, both blurred by a Gaussian, so that
    the texture inside nuclei does not count.

    Args:
        he: uint8 (h, w, 3).
        ihc: uint8 (h, w, 3), on the same grid.
        blur: standard deviation of the Gaussian in pixels; 0 for none.
        mask: bool (h, w): the pixels that count. None: all.
        background: colour of the empty slide in both.

    Returns:
        In [-1, 1]; 1 = same places. NaN if one of the two is constant.

    Raises:
        InvalidValueError: the images have different sizes.
    """
    if he.shape != ihc.shape:
        raise InvalidValueError(f"H&E and IHC must be on one grid, got shapes {he.shape} and {ihc.shape}")
    pair = (stain_densities(he, background, "h-e")[..., 0], stain_densities(ihc, background, "h-dab")[..., 0])
    if blur > 0:
        pair = tuple(cv2.GaussianBlur(np.ascontiguousarray(h), (0, 0), blur) for h in pair)
    return correlation(*(h[mask] if mask is not None else h for h in pair))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two arrays of one shape; NaN if one of them is constant."""
    a, b = (x.astype(np.float64).ravel() for x in (a, b))
    if not a.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def require_rgb(image: np.ndarray, axes: int | None = None, *, side: int = 1, what: str = "an image") -> None:
    """Require 8-bit RGB.

    Args:
        image: to check.
        axes: 3 for one image, 4 for several of one size; None: any number.
        side: least width and height of ``axes`` 3 and 4, px.
        what: it is, for the message.

    Raises:
        InvalidValueError: it is of another type or shape, too small, or empty.
    """
    shape = {None: "(..., 3)", 3: "(h, w, 3)", 4: "(n, h, w, 3)"}[axes]
    fits = image.dtype == np.uint8 and image.shape[-1:] == (3,) and axes in (None, image.ndim) and image.size
    if not fits or (axes and min(image.shape[-3:-1]) < side):
        least = f" of at least {side} px" if side > 1 else ""
        raise InvalidValueError(f"{what} must be uint8 {shape}{least}, got {image.dtype} {image.shape}")
