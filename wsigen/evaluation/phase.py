"""Phase: whether waves of an image are in step, as in outlines, fibres and nuclei. No spectrum sees it.

Noise with the spectrum of tissue has its power in every band and is not tissue. Three measures of
luminance in optical density, over tissue alone, tell the two apart:

- **coherence**: does the image have a direction at a place? (λ1 - λ2)² / (λ1 + λ2)² of the structure tensor
  (Bigün & Granlund 1987, integrated over a few µm): 1 where everything runs one way, near 0 in noise.
- **edges**: is detail where coarser detail is? Correlation of the magnitudes of neighbouring wavelength
  bands: an outline is in all bands at one place, noise in each at another. The bands do not overlap: those
  of a Laplacian pyramid do, and then agree in any image with more power in coarser ones, whatever its phase.
- **relief**: is there light from one side? Skewness of the derivative along a direction, the largest over
  directions. Turned by 180° it changes its sign, so where tissue lies every way it is 0; networks trained
  against a discriminator can settle on nuclei that are all embossed from one side.

All three stay the same when an image is turned by 90° or flipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.fft import dctn, idctn

from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.results import Result
from wsigen.evaluation.spectrum import band_names
from wsigen.evaluation.verdict import Metric
from wsigen.slide.stains import correlation, mean_density, require_rgb

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches

PAIRS = 3  # Pairs of neighbouring bands whose edges are compared: 0 and 1 (the finest) to 2 and 3
SMALLEST = 64  # Side of an image, px: the coarsest band needs room
DIRECTIONS = 32  # Directions of relief, evenly over the circle; a multiple of 8, so that turns keep them
# Standard deviation of the Gaussian that integrates the structure tensor: 2 µm, at least 2 px
TENSOR_UM, TENSOR_PX = 2.0, 2.0
# Mean optical density from which a place is tissue, after a Gaussian of 4 px
TISSUE_OD, TISSUE_PX = 0.06, 4.0
MOMENTS = 8  # Length of `relief_moments`
_FEWEST = 256  # Pixels of tissue below which a patch has no phase

_metric = partial(Metric, "phase")
COHERENCE = _metric(
    "coherence",
    "Coherence",
    good="as in the real slides: lower is grain without direction, higher is hair and stripes",
    source="(λ1 − λ2)² / (λ1 + λ2)² of the structure tensor, Bigün & Granlund 1987, over tissue",
    bounds=(0.0, 1.0),
)
EDGES = _metric(
    "edges",
    "Edges",
    good="as in the real slides: lower is detail beside its outlines, higher is outlines alone",
    source="correlation of the magnitudes of neighbouring wavelength bands, over tissue",
    bounds=(-1.0, 1.0),
)
RELIEF = _metric(
    "relief",
    "Relief",
    "lower",
    good="as low as in the real slides, near 0: higher is tissue embossed, lit from one side",
    source="skewness of the derivative along a direction, largest over directions, of all patches together",
    bad=0.2,
)
METRICS = (COHERENCE, EDGES, RELIEF)


@dataclass(frozen=True)
class Phase:
    """The phase of one patch.

    Attributes:
        coherence: mean over tissue, in [0, 1]; NaN without tissue.
        edges: correlation of the magnitudes of bands 0 and 1, 1 and 2, 2 and 3, in [-1, 1]; NaN without.
        moments: of derivatives, float64 (8,), see `relief_moments`; those of patches add up.
    """

    coherence: float
    edges: tuple[float, ...]
    moments: np.ndarray

    @property
    def relief(self) -> float:
        """Relief of this patch alone; see `relief`."""
        return relief(self.moments)

    def as_row(self) -> np.ndarray:
        """Return coherence, edges and moments one after another, float64 (12,)."""
        return np.array([self.coherence, *self.edges, *self.moments])


def pair_names() -> list[str]:
    """Return the pairs of bands in words: wavelengths in px."""
    names = [name.removesuffix(" px") for name in band_names()]
    return [f"{fine} and {coarse} px" for fine, coarse in pairwise(names[: PAIRS + 1])]


def phase_rows(c: Comparison[Patches]) -> list[Result]:
    """Compare mean coherence and edges of the patches, and the relief that they have in common.

    Relief is that of all patches together: of each alone it is the largest over directions, which chance
    makes large, and tissue that happens to lie one way. Its floor is therefore that of as many real patches.
    """
    every = c.reals.every.phases
    centre, warnings = c.reals.level("phase", lambda i: levels(every[i]))
    halves = c.reals.halves("phase", lambda i: levels(every[i]))
    floors = None if centre is None or halves is None else [*centre[:-1], halves[-1]]
    metrics, labels = [COHERENCE, *[EDGES] * PAIRS, RELIEF], ["", *pair_names(), ""]
    return c.rows(metrics, lambda: c.levels(lambda p, i: levels(p.phases[i])), (floors, warnings), labels)


def levels(phases: np.ndarray) -> list[float]:
    """Return coherence, three edges and relief of patches, (n, 12) of `Phase.as_row`; NaN without tissue."""
    known = phases[np.isfinite(phases[:, : 1 + PAIRS]).all(axis=1)]
    if not len(known):
        return [np.nan] * (2 + PAIRS)
    return [*map(float, known[:, : 1 + PAIRS].mean(axis=0)), relief(known[:, 1 + PAIRS :].sum(axis=0))]


def phase(patch: np.ndarray, mpp: float) -> Phase:
    """Measure the phase of a patch.

    Args:
        patch: uint8 (h, w, 3), at least 64 px.
        mpp: its µm/px.

    Raises:
        InvalidValueError: a patch that is too small or not uint8 RGB.
    """
    require_rgb(patch, 3, what="a patch")
    luminance = mean_density(patch)
    tissue = tissue_of(luminance)
    if np.count_nonzero(tissue) < _FEWEST:
        return Phase(math.nan, (math.nan,) * PAIRS, np.zeros(MOMENTS))
    return Phase(
        coherence(luminance, max(TENSOR_UM / mpp, TENSOR_PX), tissue),
        edge_agreement(luminance, tissue),
        relief_moments(luminance, tissue),
    )


def tissue_of(luminance: np.ndarray) -> np.ndarray:
    """Return where a patch is tissue, bool (h, w), from its mean optical density."""
    return cv2.GaussianBlur(luminance, (0, 0), TISSUE_PX) >= TISSUE_OD


def coherence(luminance: np.ndarray, sigma: float, mask: np.ndarray | None = None) -> float:
    """Return the mean coherence of the structure tensor, ((J_xx - J_yy)² + 4 J_xy²) / (J_xx + J_yy)².

    Places nearer than 2 σ to the border are left out, where the Gaussian has nothing to integrate.

    Args:
        luminance: float (h, w), at least 64 px.
        sigma: standard deviation of the Gaussian that integrates the tensor, px.
        mask: bool (h, w), pixels that count; None: all.

    Returns:
        In [0, 1]; NaN where nothing counts. Of white noise about 2 Σ W ρ², with W the autocorrelation of the
        Gaussian and ρ that of the gradient.
    """
    _require(luminance)
    gy, gx = _gradient(luminance)
    xx, yy, xy = (cv2.GaussianBlur(p, (0, 0), sigma) for p in (gx * gx, gy * gy, gx * gy))
    trace = xx + yy
    counted = trace > 1e-12
    if mask is not None:
        counted &= mask
    # nearer to the border the Gaussian has nothing to integrate
    inner = min(math.ceil(2 * sigma), min(luminance.shape) // 4)
    centre = (slice(inner, -inner),) * 2
    values = (np.square(xx - yy) + 4 * np.square(xy))[centre] / np.square(np.maximum(trace, 1e-6))[centre]
    values = values[counted[centre]]
    return float(values.mean(dtype=np.float64)) if values.size else math.nan


def edge_agreement(luminance: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, ...]:
    """Correlate the magnitudes of bands k and k + 1, for k = 0 (the finest), 1 and 2.

    Band k is what lies in (2⁻ᵏ⁻¹, 2⁻ᵏ) of the Nyquist frequency, in any direction, weighted by a squared
    cosine of the logarithm of frequency; the borders reflect. Both magnitudes are averaged by a Gaussian of
    2ᵏ px, so that the places where a wave crosses zero do not count.

    Args:
        luminance: float (h, w), at least 64 px.
        mask: bool (h, w), pixels that count; None: all.

    Returns:
        Three values in [-1, 1]; NaN where nothing counts or nothing varies. Of Gaussian noise with any
        spectrum 0 on average.
    """
    _require(luminance)
    # a cosine transform reflects at the borders: no edges there
    waves = np.asarray(dctn(np.asarray(luminance, np.float32), norm="ortho"))
    weights = _cosine_bands(*luminance.shape)
    bands = [np.abs(np.asarray(idctn(waves * w, norm="ortho"))) for w in weights]
    everything = slice(None) if mask is None else mask
    found = []
    for k, pair in enumerate(pairwise(bands)):
        # zero crossings of a wave are no gaps in its magnitude
        fine, coarse = (cv2.GaussianBlur(o, (0, 0), 2.0**k)[everything] for o in pair)
        found.append(correlation(fine, coarse))
    return tuple(found)


def relief_moments(luminance: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the sums of products of the derivatives (p, q) along x and y, from which relief follows.

    Args:
        luminance: float (h, w), at least 64 px.
        mask: bool (h, w), pixels that count; None: all.

    Returns:
        float64 (8,): count, Σ p², Σ pq, Σ q², Σ p³, Σ p²q, Σ pq², Σ q³. Those of patches add up.
    """
    _require(luminance)
    q, p = (g.astype(np.float64) for g in _gradient(luminance))
    if mask is not None:
        p, q = p[mask], q[mask]
    pp, qq = p * p, q * q
    return np.array([p.size, *(float(x.sum()) for x in (pp, p * q, qq, pp * p, pp * q, p * qq, qq * q))])


def relief(moments: np.ndarray) -> float:
    """Return the skewness of the derivative along a direction, the largest over directions.

    Σ d³ / n / (Σ d² / n)^(3/2) with d = p cos θ + q sin θ. The mean of d is left in: it is the slope of the
    image as a whole, which is nothing beside its detail.

    Args:
        moments: float64 (8,) of `relief_moments`, or a sum of several: then the relief that all have in
            common, which is 0 where each has it from another side.

    Returns:
        At least 0; NaN where nothing counts or nothing varies.
    """
    n, pp, pq, qq, ppp, ppq, pqq, qqq = moments
    if n < 1 or pp + qq <= 1e-12 * n:
        return math.nan
    # moments of p cos θ + q sin θ, expanded: no pass over the pixels per direction
    # evenly over the circle, not half of it: skewness changes its sign with the direction
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    c, s = np.cos(angle), np.sin(angle)
    second = (c * c * pp + 2 * c * s * pq + s * s * qq) / n
    third = (c**3 * ppp + 3 * c * c * s * ppq + 3 * c * s * s * pqq + s**3 * qqq) / n
    # where nothing varies along a direction, skewness is undefined
    varies = second > 1e-6 * second.max()
    return float((third[varies] / second[varies] ** 1.5).max())


def _gradient(luminance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives along y and x, float32, by Scharr's filter: it errs alike in all directions."""
    image = np.ascontiguousarray(luminance, dtype=np.float32)
    border = cv2.BORDER_REFLECT
    return (
        cv2.Scharr(image, cv2.CV_32F, 0, 1, scale=1 / 32, borderType=border),
        cv2.Scharr(image, cv2.CV_32F, 1, 0, scale=1 / 32, borderType=border),
    )


@lru_cache(maxsize=8)
def _cosine_bands(height: int, width: int) -> list[np.ndarray]:
    """Return the weights of the frequencies of a cosine transform in each band, float32 (h, w)."""
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width)[None] / width)
    depth = -np.log2(np.maximum(radius, 1e-9))
    from_middle = [depth - k - 0.5 for k in range(PAIRS + 1)]
    return [np.where(np.abs(d) < 0.5, np.cos(np.pi * d) ** 2, 0).astype(np.float32) for d in from_middle]


def _require(luminance: np.ndarray) -> None:
    if luminance.ndim != 2 or min(luminance.shape) < SMALLEST:
        raise InvalidValueError(
            f"phase needs an image (h, w) of at least {SMALLEST} px either way, got {luminance.shape}"
        )
