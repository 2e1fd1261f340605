"""Image quality without a reference, as KIN and DN report it: Sobel sharpness, NIQE and PIQE.

None of them sees seams, so they stand beside the seam score and cannot replace it. Sobel sharpness and PIQE
can be compared with those of papers: PIQE equals MATLAB's up to the rounding of grey levels. NIQE cannot: its
Gaussian is fitted on the real patches at hand, and its features come from an implementation of wsigen's own.

NIQE and PIQE look at mean-subtracted contrast-normalised luminance (MSCN, Ruderman 1994): (I - μ) / (σ + 1)
with μ and σ from a Gaussian window of 7 px, standard deviation 7/6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import gamma
from skimage.util import view_as_blocks

from wsigen.errors import InvalidValueError
from wsigen.slide.stains import require_rgb

Blocks = tuple[np.ndarray, np.ndarray]  # Features and sharpness of the blocks of one patch, see `niqe_blocks`

NIQE_BLOCK, SHARP_SHARE = 96, 0.75
PIQE_BLOCK, PIQE_SEGMENT, PIQE_ACTIVE, PIQE_FLAT = 16, 6, 0.1, 0.1
# Ratio of moments of a generalised Gaussian by its shape, to look the shape up in
_SHAPES = np.arange(0.2, 10, 0.001)
_MOMENT_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def sobel(rgb: np.ndarray) -> float:
    """Return the mean Sobel gradient as in KIN: of Y of YCrCb, 3 × 3, ½ g_x + ½ g_y, in grey levels.

    Gradients are 8-bit, so that negative ones count as 0 and large ones as 255.

    Args:
        rgb: uint8 (h, w, 3).
    """
    y = luminance(rgb)
    g_x, g_y = cv2.Sobel(y, cv2.CV_8U, 1, 0, ksize=3), cv2.Sobel(y, cv2.CV_8U, 0, 1, ksize=3)
    return float(g_x.mean() + g_y.mean()) / 2


def piqe(rgb: np.ndarray) -> float:
    """Return PIQE, Venkatanath et al. 2015 and MATLAB's piqe: share of active blocks that look distorted.

    Blocks of 16 × 16 MSCN are active if their variance v exceeds 0.1. An active block is impaired, and counts
    1 - v, if on one of its sides any 6 pixels in a row have a standard deviation below 0.1. It is noisy, and
    counts v, if its deviation exceeds 2 β, where β compares it with that of its two middle columns relative
    to the rest.

    Args:
        rgb: uint8 (h, w, 3); repeated at right and bottom up to a multiple of 16.

    Returns:
        100 · (Σ counts + 1) / (active blocks + 1), 0 to about 100; low is good. 100 if nothing is active.
    """
    coefficients, _ = mscn(luminance(rgb))
    height, width = coefficients.shape
    coefficients = np.pad(coefficients, ((0, -height % PIQE_BLOCK), (0, -width % PIQE_BLOCK)), "edge")
    blocks = _blocks(coefficients, PIQE_BLOCK)
    variance = blocks.var(axis=(1, 2), ddof=1)
    active, v = blocks[variance > PIQE_ACTIVE], variance[variance > PIQE_ACTIVE]
    # a block can be impaired and noisy
    counts = np.where(_impaired(active), 1 - v, 0) + np.where(_noisy(active), v, 0)
    return float(100 * (counts.sum() + 1) / (len(active) + 1))


@dataclass(frozen=True)
class Niqe:
    """Natural image quality evaluator after Mittal et al. 2013, with a Gaussian fitted on real patches.

    Not comparable with NIQE in papers, whose Gaussian is that of photographs, from the authors' code.

    Args:
        mean: of the 36 block features, (36,).
        covariance: (36, 36).
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, patches: Iterable[np.ndarray]) -> Niqe:
        """Fit on the sharper blocks (above 0.75 of the sharpest of their patch) of real patches.

        Args:
            patches: uint8 (h, w, 3), at least 96 px, all at the µm/px that is scored later.

        Raises:
            InvalidValueError: fewer sharp blocks than features.

        Memory: 36 numbers per block of 96 px.
        """
        return cls.fit_blocks([niqe_blocks(patch) for patch in patches])

    @classmethod
    def fit_blocks(cls, patches: Iterable[Blocks]) -> Niqe:
        """Fit on `niqe_blocks` of each patch."""
        features = [rows[sharp > SHARP_SHARE * sharp.max(initial=0)] for rows, sharp in patches]
        rows = np.concatenate(features) if features else np.empty((0, 36))
        if len(rows) <= rows.shape[1]:
            raise InvalidValueError(
                f"NIQE needs more than {rows.shape[1]} sharp blocks of {NIQE_BLOCK} px to fit its Gaussian, "
                f"got {len(rows)}; give more or larger real patches"
            )
        return cls(rows.mean(axis=0), np.cov(rows, rowvar=False))

    def score(self, patch: np.ndarray | Sequence[np.ndarray]) -> float:
        """Return the distance of a patch (or of several as one image) to the real ones; low is good.

        Eq. 10: √((ν_1 - ν_2)ᵀ ((Σ_1 + Σ_2)/2)⁻¹ (ν_1 - ν_2)).

        Args:
            patch: uint8 (h, w, 3), at least 96 px, or a sequence of such.

        Returns:
            At least 0; NaN if no block has any texture.
        """
        patches = [patch] if isinstance(patch, np.ndarray) and patch.ndim == 3 else patch
        return self.score_blocks([niqe_blocks(p) for p in patches])

    def score_blocks(self, patches: Iterable[Blocks]) -> float:
        """Score patches, each given by its `niqe_blocks`."""
        rows = np.concatenate([described for described, _ in patches])
        if not len(rows):
            return float("nan")
        covariance = np.cov(rows, rowvar=False) if len(rows) > 1 else np.zeros_like(self.covariance)
        # pinv: few blocks make a singular covariance
        apart = rows.mean(axis=0) - self.mean
        return float(np.sqrt(max(0.0, apart @ np.linalg.pinv((self.covariance + covariance) / 2) @ apart)))


def niqe_blocks(patch: np.ndarray) -> Blocks:
    """Return the 36 features (two scales) of every block with texture, and its mean local deviation.

    Args:
        patch: uint8 (h, w, 3), at least 96 px.

    Returns:
        float64 (blocks, 36) and (blocks,).
    """
    grey = luminance(patch)
    if min(grey.shape) < NIQE_BLOCK:
        raise InvalidValueError(f"NIQE needs patches of at least {NIQE_BLOCK} px, got {grey.shape}")
    height, width = (side // NIQE_BLOCK * NIQE_BLOCK for side in grey.shape)
    grey = grey[:height, :width]
    half = cv2.resize(grey.astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    features, flat, sharpness = [], False, np.empty(0)
    for scale, image in ((1, grey), (2, half)):
        coefficients, deviation = mscn(image)
        blocks = _blocks(coefficients, NIQE_BLOCK // scale)
        sharpness = sharpness if scale == 2 else _blocks(deviation, NIQE_BLOCK).mean(axis=(1, 2))
        flat = flat | (blocks.var(axis=(1, 2)) < 1e-6)
        features.append(_natural_scene_statistics(blocks))
    return np.concatenate(features, axis=1)[~flat], sharpness[~flat]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Return Y of YCrCb, uint8 (h, w)."""
    require_rgb(rgb, 3)
    return np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., 0])


def mscn(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean-subtracted contrast-normalised coefficients of grey levels, and their local deviation.

    Args:
        grey: (h, w).

    Returns:
        Two of float64 (h, w).
    """
    image = grey.astype(np.float64)  # single precision would leave noise of 0.06 in bright flat areas
    mean, square = (
        cv2.GaussianBlur(x, (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE) for x in (image, image**2)
    )
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return (image - mean) / (deviation + 1), deviation


def _blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Cut an image of whole blocks into (blocks, side, side)."""
    return view_as_blocks(image, (side, side)).reshape(-1, side, side)


def _impaired(blocks: np.ndarray) -> np.ndarray:
    sides = np.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], axis=1)
    # any 6 pixels in a row along any of the four sides
    segments = np.lib.stride_tricks.sliding_window_view(sides, PIQE_SEGMENT, axis=2)
    return (segments.std(axis=-1, ddof=1) < PIQE_FLAT).any(axis=(1, 2))


def _noisy(blocks: np.ndarray) -> np.ndarray:
    middle = slice(PIQE_BLOCK // 2 - 1, PIQE_BLOCK // 2 + 1)
    # The authors' code removes the second middle column after the first, when it has moved: another one goes.
    # So it does here, since values are there to be compared.
    centre, rest = blocks[:, :, middle], np.delete(blocks, [middle.start, middle.start + 2], axis=2)
    deviation = blocks.std(axis=(1, 2), ddof=1)
    ratio = centre.std(axis=(1, 2), ddof=1) / np.maximum(rest.std(axis=(1, 2), ddof=1), 1e-12)
    beta = np.abs(deviation - ratio) / np.maximum(np.maximum(deviation, ratio), 1e-12)
    return deviation > 2 * beta


def _natural_scene_statistics(blocks: np.ndarray) -> np.ndarray:
    """Compute section 2 of Mittal et al.: shape and scale of MSCN, four numbers per product of neighbours."""
    shape, left, right = _asymmetric_gaussian(blocks)
    parts = [shape, (left + right) / 2]
    for dy, dx in _NEIGHBOURS:
        # at the block's border the roll wraps round, as in the authors' code
        product = blocks * np.roll(blocks, (dy, dx), axis=(1, 2))
        shape, left, right = _asymmetric_gaussian(product)
        parts += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(parts, axis=1)


def _asymmetric_gaussian(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit shape α and scales β_l, β_r of asymmetric generalised Gaussians by moments (Lasmar et al. 2009)."""
    x = blocks.reshape(len(blocks), -1).astype(np.float64)
    square = x**2
    left, right = (
        np.sqrt((square * side).sum(axis=1) / np.maximum(side.sum(axis=1), 1)) + 1e-9
        for side in (x < 0, x > 0)
    )
    ratio = left / right
    r_hat = np.abs(x).mean(axis=1) ** 2 / (square.mean(axis=1) + 1e-18)
    # the generalised ratio of moments (Lasmar et al.), inverted by a table
    r_hat = r_hat * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = np.interp(r_hat, _MOMENT_RATIOS, _SHAPES)
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale
