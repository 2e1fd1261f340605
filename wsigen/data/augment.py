"""Vary training patches: rotate, stretch slightly, and strengthen or weaken stains.

This goes beyond the eight orientations of a square, which lose nothing. A variation must leave no artefacts,
since a generative model reproduces whatever it has been shown:

- **Angle and stretch.** A larger patch is cut at half the µm/px, warped, and averaged 2 × 2: interpolation
  blurs only detail finer than the patch shows, and no corner is empty. Slides that are not that fine are not
  warped. The stretch keeps areas, and thereby µm/px: one axis grows as the other shrinks. (Scaling both axes
  alike would add nothing, since µm/px is random anyway.)
- **Stains.** In optical density, where stains add up (Lambert-Beer), haematoxylin and eosin are unmixed
  (Ruifrok & Johnston 2001), and each is multiplied by its own factor; the residual stays. Background has
  density 0 and keeps its exact colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from wsigen.config import AugmentConfig
from wsigen.geometry import Colour

_PUBLISHED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], np.float32)
STAINS = _PUBLISHED / np.linalg.norm(_PUBLISHED, axis=1, keepdims=True)
"""Optical densities in red, green and blue of a unit of each stain (Ruifrok & Johnston 2001)."""

FINER = 2
"""A patch to be warped is read at a µm/px finer by this factor, and averaged down afterwards."""

MARGIN = 2  # px on each side that cubic interpolation needs around the patch


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Variation of one patch.

    Attributes:
        angle: of rotation, radians.
        stretch: ln of the factor by which one axis grows, and the other shrinks.
        gains: ln of the factors of haematoxylin and eosin.
    """

    angle: float = 0.0
    stretch: float = 0.0
    gains: tuple[float, float] = (0.0, 0.0)

    @property
    def warps(self) -> bool:
        """Whether the patch is warped."""
        return self.angle != 0 or self.stretch != 0

    def source_size(self, size: int) -> int:
        """Return the side of the patch to read for one of ``size`` px, in pixels of the finer µm/px."""
        half = FINER * size / 2 * float(np.abs(self._matrix()).sum(axis=1).max())
        return 2 * math.ceil(half + MARGIN)

    def warp(self, source: np.ndarray, size: int) -> np.ndarray:
        """Return the patch of ``size`` px in the middle of a larger one, rotated and stretched.

        Args:
            source: uint8 (h, w, 3) of ``source_size`` px at a µm/px finer by ``FINER``.
            size: side of the result, px.

        Returns:
            uint8 (size, size, 3).
        """
        fine = FINER * size
        matrix = self._matrix()
        # cv2 maps pixel centres of the result to the source; both centres must coincide.
        offset = (np.array(source.shape[1::-1]) - 1) / 2 - matrix @ np.full(2, (fine - 1) / 2)
        warped = cv2.warpAffine(
            source,
            np.hstack([matrix, offset[:, None]]),
            (fine, fine),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)

    def stain(self, image: np.ndarray, background: Colour) -> np.ndarray:
        """Return the same tissue with stronger or weaker stains.

        Args:
            image: uint8 (h, w, 3).
            background: 8-bit RGB; pixels as bright or brighter do not change.
        """
        if self.gains == (0.0, 0.0):
            return image
        grey = image.astype(np.float32) + 1
        density = np.maximum(np.log(np.array(background, np.float32) + 1) - np.log(grey), 0)
        # Noise can unmix to negative amounts.
        amounts = np.maximum(density @ _UNMIXING, 0)
        added = (amounts * np.expm1(np.array(self.gains, np.float32))) @ STAINS
        return np.clip(np.rint(grey * np.exp(-added) - 1), 0, 255).astype(np.uint8)

    def _matrix(self) -> np.ndarray:
        """Map positions in the patch to positions in its source, both (x, y) from the centre."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]]) @ np.diag(np.exp([-self.stretch, self.stretch]))


def draw_variation(config: AugmentConfig, rng: np.random.Generator) -> Variation:
    """Draw a random variation.

    Args:
        config: how much of each.
        rng: source of randomness; the same number of values is always drawn.
    """
    # All values are drawn whether used or not, so that options do not change later draws.
    turned, angle, stretch = rng.random(3)
    gains = config.stain * rng.standard_normal(2).clip(-2, 2)
    if turned >= config.rotate:
        angle = 0.0
    return Variation(
        angle=2 * math.pi * angle,
        stretch=math.log1p(config.stretch) * (stretch - 0.5),
        gains=(float(gains[0]), float(gains[1])),
    )


def _unmixing() -> np.ndarray:
    """Return the map from densities to stain amounts; the residual is perpendicular to both stains."""
    inverse = np.linalg.inv(np.vstack([STAINS, np.cross(*STAINS)]))
    return inverse[:, :2].astype(np.float32)


_UNMIXING = _unmixing()
