"""Cross-scale consistency: does a fine image, reduced, agree with the coarser one that it was made from?

A cascade upsamples an overview; what it makes must still be that overview when seen from as far. The finer
image is reduced by averaging areas, as a slide's pyramid is, and compared with the coarser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import caution
from wsigen.slide.stains import correlation

SMALLEST_FACTOR = 1.2


@dataclass(frozen=True)
class ScaleAgreement:
    """How a reduced image agrees with its overview.

    Args:
        psnr: 10 log10(255² / mean squared error), dB; infinite if equal. Rounding to 8 bit alone gives 59 dB,
            JPEG about 35.
        correlation: Pearson correlation of the grey levels within channels; 1 = same picture.
        bias: mean difference reduced - overview per channel (R, G, B), grey levels: colour that drifted.
        detail: ratio of the standard deviations after the local mean (8 px) is taken out; below 1 = blurred.
    """

    psnr: float
    correlation: float
    bias: tuple[float, float, float]
    detail: float


def reduce_to(fine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The finer image at the size of the coarser, by averaging areas, float32.

    Args:
        fine: uint8 (h, w, 3).
        size: (height, width) to reduce to.
    """
    return cv2.resize(fine.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def scale_agreement(fine: np.ndarray, coarse: np.ndarray) -> ScaleAgreement:
    """Compare a finer image of a region with the coarser image of the same region.

    Args:
        fine: uint8 (h, w, 3), say at 1 µm/px.
        coarse: uint8 (h', w', 3), say the 4 µm/px that it came from; smaller by one factor in both
            directions.

    Raises:
        InvalidValueError: the two do not show one region: factors that differ between height and width, or
            that are below 1.2.

    Warns:
        MeasureWarning: an image without any structure, whose correlation is undefined.
    """
    factors = fine.shape[0] / coarse.shape[0], fine.shape[1] / coarse.shape[1]
    slack = 1 / min(coarse.shape[:2])
    if min(factors) < SMALLEST_FACTOR or abs(math.log(factors[0] / factors[1])) > 2 * slack:
        raise InvalidValueError(
            "the finer image must show the same region as the coarser, larger by one factor of at least "
            f"{SMALLEST_FACTOR:g}, got {fine.shape[:2]} and {coarse.shape[:2]}"
        )
    reduced, overview = reduce_to(fine, coarse.shape[:2]), coarse.astype(np.float32)
    apart = (reduced - overview).astype(np.float64)
    error = float(np.square(apart).mean())
    bias = apart.mean(axis=(0, 1))
    agreement = correlation(*(image - image.mean(axis=(0, 1)) for image in (reduced, overview)))
    if math.isnan(agreement):
        caution("an image without structure has no correlation with its overview")
    return ScaleAgreement(
        psnr=10 * math.log10(255**2 / error) if error > 0 else math.inf,
        correlation=agreement,
        bias=(float(bias[0]), float(bias[1]), float(bias[2])),
        detail=_detail(reduced) / max(_detail(overview), 1e-9),
    )


def _detail(image: np.ndarray) -> float:
    return float(np.std(image - cv2.blur(image, (8, 8))))
