"""DAB of an IHC slide as a heat map: a PNG, coloured by optical density, transparent where not positive."""

from __future__ import annotations

import math

import cv2
import numpy as np

from wsigen.slide.stains import POSITIVE_DAB, WHITE, stain_densities
from wsigen.slide.tissue import background_colour, mask_resolution, tissue_mask
from wsigen.viewer.deepzoom import DeepZoom

MOST_PIXELS = 2048
"""Longest side of a heat map."""
TOP = 1.0
"""DAB density of the last colour, OD; that of the first is `POSITIVE_DAB`. The same for all slides, so that
they can be compared."""
_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_PLASMA)[:, 0]  # BGR


class Heatmap:
    """The heat map of a slide, at that level of its pyramid of halves that is nearest to 8 µm/px.

    Finer for slides so small that tissue could not be told apart, coarser for those above `MOST_PIXELS`.

    Args:
        tiles: of the slide.
        mpp: µm/px of its level 0.

    Attributes:
        width_um: of the map. Its pixels are whole ones of the level, so the last may reach past the slide.
    """

    def __init__(self, tiles: DeepZoom, mpp: float) -> None:
        halvings = round(math.log2(mask_resolution(mpp, tiles.size) / mpp))
        # level n of DeepZoom is at most 2**n px long
        self._level = min(tiles.top - halvings, MOST_PIXELS.bit_length() - 1)
        self._tiles, self._mpp = tiles, mpp * (1 << (tiles.top - self._level))
        self.width_um = self._mpp * math.ceil(tiles.size.width * mpp / self._mpp)

    def png(self) -> bytes:
        """Return the map, RGBA: opaque where tissue has a DAB density of at least `POSITIVE_DAB`.

        Raises:
            SlideError: the slide cannot be read.
        """
        picture = self._tiles.picture(self._level)
        tissue = tissue_mask(picture, self._mpp)
        dab = stain_densities(picture, background_colour(picture, tissue) or WHITE, "h-dab")[..., 2]
        positive = tissue & (dab >= POSITIVE_DAB)
        steps = np.clip(255 * (dab - POSITIVE_DAB) / (TOP - POSITIVE_DAB), 0, 255).round().astype(np.uint8)
        shown = np.dstack([_COLOURS[steps], np.full(steps.shape, 255, np.uint8)])
        shown[~positive] = 0
        return cv2.imencode(".png", shown)[1].tobytes()


def legend() -> dict[str, object]:
    """Return the colours ("#rrggbb") from the density ``low`` to ``high``, in OD, as the page shows them."""
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in _COLOURS[:: 255 // 5].tolist()]
    return {"low": POSITIVE_DAB, "high": TOP, "colors": colours}
