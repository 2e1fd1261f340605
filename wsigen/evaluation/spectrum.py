"""Power by spatial frequency: blur, checkerboards and invented detail show as a ratio per wavelength band.

The radial power spectrum (as in Durall et al. 2020, "Watch your up-convolution", eq. 3 and 4) of luminance in
optical density, under a Hann window so that a patch's borders are no edges. Band k is (2⁻ᵏ⁻¹, 2⁻ᵏ] of the
Nyquist frequency, an octave; band 0 reaches to the corner of the spectrum.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.results import Result
from wsigen.evaluation.verdict import Metric
from wsigen.slide.stains import mean_density, require_rgb

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches

BANDS = 6
# The checkerboard's band: frequencies within 3 lines of the highest row or column of the spectrum
NYQUIST_LINES = 3

_metric = partial(Metric, "spectrum")
POWER = _metric(
    "power",
    "Power",
    good="1 in every band: below 1 at the shortest wavelengths is blur, above 1 is noise or a pattern",
    source="radial power spectrum, Durall et al. 2020, eq. 3 and 4",
)
CHECKERBOARD = _metric(
    "checkerboard",
    "Checkerboard",
    good="1: above 1 the network's upsampling has left a pattern of 2 px",
    source="power at the Nyquist lines relative to the shortest wavelengths",
)
METRICS = (POWER, CHECKERBOARD)


def band_names() -> list[str]:
    """Return the bands in words: wavelengths in px."""
    return [f"{2 ** (k + 1) if k else 1.4:g}–{2 ** (k + 2)} px" for k in range(BANDS)]


def spectrum_rows(c: Comparison[Patches]) -> list[Result]:
    """Compare the power in each band, and that of the checkerboard."""
    return c.distance_rows(
        [POWER] * BANDS + [CHECKERBOARD],
        "spectrum",
        lambda a, i, b, j: power_ratios(a.powers[i], b.powers[j]),
        draws=40,
        bounds=(0, np.inf),
        labels=[*band_names(), ""],
    )


def band_powers(patch: np.ndarray) -> np.ndarray:
    """Return the power of one patch in each band, and in the checkerboard's band.

    Args:
        patch: uint8 (h, w, 3), at least 64 px.

    Returns:
        float64 (7,): mean squared amplitude per frequency of bands 0 (shortest wavelengths: 1.4 to 4 px) to 5
        (64 to 128 px), and of the checkerboard's band (about 2 px along rows or columns).

    Raises:
        InvalidValueError: a patch that is too small or not uint8 RGB.
    """
    require_rgb(patch, 3, side=64, what="a patch")
    density = mean_density(patch)
    window, bands, weights = _geometry(*density.shape)
    power = np.square(np.abs(np.fft.rfft2((density - density.mean()) * window))) / np.square(window).sum()
    return bands @ power.ravel() / weights


def power_ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Divide the mean powers of two sets.

    Args:
        ours: `band_powers` of each patch, (n, 7).
        theirs: the same of the real patches, (m, 7), at the same µm/px and size.

    Returns:
        float64 (7,): 1 = as real. The checkerboard's ratio is relative to that of band 0.
    """
    ratio = ours.mean(axis=0) / np.maximum(theirs.mean(axis=0), 1e-30)
    # a checkerboard stands out of its own band; noise raises both
    return np.append(ratio[:-1], ratio[-1] / max(ratio[0], 1e-30))


@lru_cache(maxsize=8)
def _geometry(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Hann window, the frequencies of each band (7, frequencies), and their numbers."""
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1]).astype(np.float32)
    fy, fx = 2 * np.abs(np.fft.fftfreq(height))[:, None], 2 * np.fft.rfftfreq(width)[None]  # Nyquist = 1
    # rfft2 gives half of the spectrum: all columns but the first and the last stand for two
    radius, twice = np.hypot(fy, fx), np.where((fx > 0) & (fx < 1), 2.0, 1.0)
    # band k holds frequencies with -log2 in [k, k + 1); the corner beyond Nyquist joins band 0
    octave = np.clip(np.floor(-np.log2(np.maximum(radius, 1e-9))), 0, BANDS).astype(int)
    bands = [octave == k for k in range(BANDS)]
    bands.append((fy > 1 - 2 * NYQUIST_LINES / height) | (fx > 1 - 2 * NYQUIST_LINES / width))
    weighted = np.stack([np.where(band, twice, 0).ravel() for band in bands])
    return window, weighted, weighted.sum(axis=1)
