"""Power by spatial frequency: blur, checkerboards and invented detail show as a ratio per octave.

The radial power spectrum (as in Durall et al. 2020, "Watch your up-convolution", eq. 3 and 4) of luminance in
optical density, under a Hann window so that a patch's borders are no edges. Octave k is (2⁻ᵏ⁻¹, 2⁻ᵏ] of the
Nyquist frequency; octave 0 reaches to the corner of the spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.fidelity import Labels, sample_labels
from wsigen.slide.stains import mean_density

OCTAVES = 6
NYQUIST_LINES = 3
"""The checkerboard's own band: what is within 3 lines of the highest row or column of the spectrum."""


@dataclass(frozen=True)
class SpectrumRatio:
    """Mean power of generated patches, divided by that of real ones.

    Args:
        octaves: for octave 0 (finest: wavelengths of 1.4 to 4 px) to 5 (64 to 128 px); 1 = as real, below 1
            in the finest = blurred.
        checkerboard: the same for wavelengths of about 2 px along rows or columns, relative to octave 0;
            above 1 = the pattern of an upsampling layer.
    """

    octaves: tuple[Estimate, ...]
    checkerboard: Estimate


def octave_powers(patch: np.ndarray) -> np.ndarray:
    """Power of one patch in each octave, and in the checkerboard's band.

    Args:
        patch: uint8 (h, w, 3), at least 64 px.

    Returns:
        float64 (7,): mean squared amplitude of octaves 0 to 5 and of the checkerboard's band, per frequency.

    Raises:
        InvalidValueError: a patch that is too small or not uint8 RGB.
    """
    if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[-1] != 3 or min(patch.shape[:2]) < 64:
        raise InvalidValueError(
            f"a spectrum needs uint8 (h, w, 3) of at least 64 px, got {patch.dtype} {patch.shape}"
        )
    density = mean_density(patch)
    window, bands, weights = _geometry(*density.shape)
    power = np.square(np.abs(np.fft.rfft2((density - density.mean()) * window))) / np.square(window).sum()
    return bands @ power.ravel() / weights


def spectrum_ratio(
    generated: np.ndarray | Iterable[np.ndarray],
    real: np.ndarray | Iterable[np.ndarray],
    *,
    generated_slides: Labels | None = None,
    real_slides: Labels | None = None,
    draws: int = 40,
    seed: int = 0,
) -> SpectrumRatio:
    """Ratio of the mean powers of two sets, with 95 % intervals.

    Args:
        generated: `octave_powers` of each generated patch, (n, 7).
        real: the same of the real ones, (m, 7), at the same µm/px and size.
        generated_slides: one label per generated patch.
        real_slides: the same for the real ones.
        draws: halves drawn for the intervals.
        seed: of the draws.
    """
    ours, theirs = (np.asarray(list(powers), np.float64) for powers in (generated, real))

    def ratios(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        ratio = ours[i].mean(axis=0) / np.maximum(theirs[j].mean(axis=0), 1e-30)
        return np.append(ratio[:-1], ratio[-1] / max(ratio[0], 1e-30))

    sides = sample_labels(ours, generated_slides), sample_labels(theirs, real_slides)
    estimates = jackknife(ratios, sides, draws=draws, seed=seed, bounds=(0, np.inf))
    return SpectrumRatio(tuple(estimates[:-1]), estimates[-1])


@lru_cache(maxsize=8)
def _geometry(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hann window, which frequencies are in which band (7, frequencies), and how many those are."""
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1]).astype(np.float32)
    fy, fx = 2 * np.abs(np.fft.fftfreq(height))[:, None], 2 * np.fft.rfftfreq(width)[None]  # Nyquist = 1
    radius, twice = np.hypot(fy, fx), np.where((fx > 0) & (fx < 1), 2.0, 1.0)
    octave = np.clip(np.floor(-np.log2(np.maximum(radius, 1e-9))), 0, OCTAVES).astype(int)
    bands = [octave == k for k in range(OCTAVES)]
    bands.append((fy > 1 - 2 * NYQUIST_LINES / height) | (fx > 1 - 2 * NYQUIST_LINES / width))
    weighted = np.stack([np.where(band, twice, 0).ravel() for band in bands])
    return window, weighted, weighted.sum(axis=1)
