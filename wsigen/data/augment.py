"""Variations of training patches: other angles, slightly stretched tissue, stronger and weaker stains.

Beyond the eight orientations of a square, which lose nothing. What else is done to a patch must not be seen
in it, since a model of images draws whatever it has been shown:

- **Angle and stretch.** A larger patch is cut at half the µm/px, warped, and averaged 2 × 2: interpolation
  dims only detail finer than the patch shows, and no corner is empty. Slides that are not that fine are left
  alone. The stretch keeps areas: one axis grows as the other shrinks, and the µm/px stays what it was. (To
  scale both axes alike would add nothing: every µm/px is drawn as it is.)
- **Stains.** In optical density, where stains add up (Lambert-Beer), haematoxylin and eosin are unmixed
  (Ruifrok & Johnston 2001), each is multiplied by a factor of its own, and what both do not explain stays.
  Glass has nothing to multiply, and keeps its colour to the bit.
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
"""A patch that is warped is read at so much finer a µm/px, and averaged down afterwards."""

MARGIN = 2  # px on each side that cubic interpolation looks at beyond the patch


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What is done to one patch.

    Attributes:
        angle: it is turned by, radians.
        stretch: ln of the factor by which one axis grows, and the other shrinks.
        gains: ln of the factors of haematoxylin and eosin.
    """

    angle: float = 0.0
    stretch: float = 0.0
    gains: tuple[float, float] = (0.0, 0.0)

    @property
    def warps(self) -> bool:
        """Whether pixels move."""
        return self.angle != 0 or self.stretch != 0

    def source_size(self, size: int) -> int:
        """Side of the patch to read for one of ``size`` px, in pixels of the finer µm/px."""
        half = FINER * size / 2 * float(np.abs(self._matrix()).sum(axis=1).max())
        return 2 * math.ceil(half + MARGIN)

    def warp(self, source: np.ndarray, size: int) -> np.ndarray:
        """The patch of ``size`` px in the middle of a larger one, turned and stretched.

        Args:
            source: uint8 (h, w, 3) of ``source_size`` px at a µm/px finer by ``FINER``.
            size: side of the result, px.

        Returns:
            uint8 (size, size, 3).
        """
        fine = FINER * size
        matrix = self._matrix()
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
        """The same tissue, stained more or less strongly.

        Args:
            image: uint8 (h, w, 3).
            background: colour of glass, 8 bit RGB; what is as bright or brighter stays as it is.
        """
        if self.gains == (0.0, 0.0):
            return image
        grey = image.astype(np.float32) + 1
        density = np.maximum(np.log(np.array(background, np.float32) + 1) - np.log(grey), 0)
        amounts = np.maximum(density @ _UNMIXING, 0)  # unmixing noise can give less than nothing
        added = (amounts * np.expm1(np.array(self.gains, np.float32))) @ STAINS
        return np.clip(np.rint(grey * np.exp(-added) - 1), 0, 255).astype(np.uint8)

    def _matrix(self) -> np.ndarray:
        """From places in the patch to places in what is read, both (x, y) from the middle."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]]) @ np.diag(np.exp([-self.stretch, self.stretch]))


def draw_variation(config: AugmentConfig, rng: np.random.Generator) -> Variation:
    """One variation; a ``config`` of nothing gives none.

    Args:
        config: how much of each.
        rng: source of randomness; always asked for the same number of values.
    """
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
    """From densities to amounts of both stains; what they do not explain is perpendicular to them."""
    inverse = np.linalg.inv(np.vstack([STAINS, np.cross(*STAINS)]))
    return inverse[:, :2].astype(np.float32)


_UNMIXING = _unmixing()
