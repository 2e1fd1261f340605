"""A window of a map of glass: a few of its cells, that say of a pixel what the whole map says."""

from __future__ import annotations

import numpy as np

from wsigen.geometry import Region
from wsigen.stain.glass import FAR, GlassMap

REACH = FAR + 2
"""Cells around a region that decide about it: those of the opacity, and of what lies between two cells."""


class GlassWindow:
    """The cells around a region of a slide.

    Args:
        occupied: bool (rows, columns) of the window's cells.
        cells: indices of these; `REACH` more on every side than the regions that it is asked about, or up to
            the map's edge.
        cell: side of a cell in pixels.

    Determinism: what it says of a pixel is, bit for bit, what the map of the whole slide says of it.
    """

    def __init__(self, occupied: np.ndarray, cells: Region, cell: int) -> None:
        self._map = GlassMap(occupied, cell)
        self._y, self._x = cells.y * cell, cells.x * cell

    def fraction(self, region: Region) -> float:
        """The part of the cells a region touches that is occupied, in [0, 1]."""
        return self._map.fraction(region.shift(-self._y, -self._x))

    def range(self, region: Region) -> tuple[float, float]:
        """Bounds of the opacity in a region, found without computing it."""
        return self._map.range(region.shift(-self._y, -self._x))

    def opacity(self, region: Region) -> np.ndarray:
        """How much of the translated pixel is shown: float32 (height, width)."""
        return self._map.opacity(region.shift(-self._y, -self._x))
