"""Glass: the colour of a slide without tissue, and where a guide shows nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError

Colour = tuple[int, int, int]

_BRIGHT, _GREY, _ENOUGH = 215, 20, 0.01


def glass_colour(image: np.ndarray, default: Colour) -> Colour:
    """The background colour of a slide, from its base image.

    Glass pixels are bright (every channel ≥ 215) and grey (channels within 20). Their median counts where
    they are at least 1 % of the image.

    Args:
        image: the base image z_0, uint8 (height, width, 3).
        default: the colour of the model's training slides, for images without glass.
    """
    glass = (image.min(axis=2) >= _BRIGHT) & (np.ptp(image, axis=2) <= _GREY)
    if glass.mean() < _ENOUGH:
        return default
    red, green, blue = np.median(image[glass], axis=0).round().astype(int).tolist()
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class SkipRule:
    """Which patches need no network: those whose guide, with a margin, shows glass alone.

    A guide pixel is glass if no channel differs by more than ``tolerance`` from the background colour. One
    that is not makes every patch near it go through the network. A skipped patch gets D = A†y.

    Args:
        tolerance: of 255. 0 skips only what has exactly the background colour.
        margin: guide pixels around a patch that must be glass as well.

    Determinism: a function of the guide's pixels and the patch's position alone.
    """

    tolerance: int = 8
    margin: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 255 or self.margin < 0:
            raise InvalidValueError(
                "skip_tolerance must be between 0 and 255 and skip_margin at least 0, got "
                f"{self.tolerance} and {self.margin}"
            )

    def occupied(self, rows: np.ndarray, background: Colour) -> np.ndarray:
        """Which guide pixels are not glass: bool (height, width).

        Args:
            rows: uint8 (height, width, 3).
            background: colour of glass.
        """
        low = np.array([max(c - self.tolerance, 0) for c in background], np.uint8)
        high = np.array([min(c + self.tolerance, 255) for c in background], np.uint8)
        return np.asarray(((rows < low) | (rows > high)).any(axis=2))
