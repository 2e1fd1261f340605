"""Where a slide is background, which a stain leaves as it is: a map of cells, and a window of such a map."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region

NEAR, FAR = 2, 4
"""Distance from tissue, in cells, up to which a stain is opaque, and from which it is invisible."""

_WINDOW = 1024


@runtime_checkable
class AnyBackground(Protocol):
    """Where a slide is bare background, as a function of position; see `BackgroundMap`."""

    def fraction(self, region: Region) -> float:
        """Return the share of the cells touched by a region that are not background, in [0, 1]."""
        ...

    def range(self, region: Region) -> tuple[float, float]:
        """Return bounds of the opacity in a region."""
        ...

    def opacity(self, region: Region) -> np.ndarray:
        """Return the opacity of the translated pixels over their source: float32 (height, width)."""
        ...


class BackgroundMap:
    """Background and tissue in square cells, and how far the stain reaches into the background.

    Args:
        occupied: bool (rows, columns): cells that are not background. Cell (0, 0) begins at the
            slide's origin; beyond the map, its edge goes on.
        cell: side of a cell in pixels.

    Memory: 3 bytes a cell: 50 MB for a slide of 65536 × 65536 in cells of 16.

    Determinism: values depend on the map and the position alone.

    Raises:
        InvalidValueError: an empty map, or cells of no size.
    """

    def __init__(self, occupied: np.ndarray, cell: int) -> None:
        if occupied.ndim != 2 or not occupied.size or cell < 1:
            raise InvalidValueError(
                f"a background map needs rows and columns of at least 1 px, got {occupied.shape} of {cell}"
            )
        self.occupied, self.cell = occupied.astype(bool, copy=False), cell
        self._opacity = _opacity_of_cells(self.occupied)

    @property
    def nbytes(self) -> int:
        """Bytes of the map."""
        return self.occupied.nbytes + self._opacity.nbytes

    def fraction(self, region: Region) -> float:
        """Return the share of the cells touched by a region that are not background, in [0, 1]."""
        rows, cols = self._touched(region)
        return float(self.occupied[rows, cols].mean())

    def range(self, region: Region) -> tuple[float, float]:
        """Return bounds of the opacity in a region, without computing it.

        (0, 0) means that the region needs no translation, (1, 1) that its source is invisible.
        """
        # interpolation reaches into the next cell on every side
        part = self._opacity[self._touched(region.pad(self.cell))]
        return float(part.min()), float(part.max())

    def opacity(self, region: Region) -> np.ndarray:
        """Return the opacity of the translated pixels over their source: float32 (height, width).

        1 within 2 cells of an occupied one (Euclidean, centre to centre), linearly down to 0 at 4 cells;
        linear between the centres of cells.
        """
        top, below, down = self._between(region.y, region.height, len(self._opacity))
        left, right, across = self._between(region.x, region.width, self._opacity.shape[1])
        # only the rows of cells that the region needs become float32
        first, last = top[0], below[-1] + 1
        cells = self._opacity[first:last].astype(np.float32)
        lines = cells[:, left] + (cells[:, right] - cells[:, left]) * across
        upper = lines[top - first]
        return upper + (lines[below - first] - upper) * down[:, None]

    def _touched(self, region: Region) -> tuple[slice, slice]:
        """Cells that a region touches; the nearest ones where it lies outside the map."""
        spans = ((region.y, region.y1), (region.x, region.x1))
        slices = []
        for (start, end), count in zip(spans, self.occupied.shape, strict=True):
            first = min(max(start // self.cell, 0), count - 1)
            slices.append(slice(first, max(first + 1, min(-(-end // self.cell), count))))
        return slices[0], slices[1]

    def _between(self, start: int, length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each pixel the cell whose centre is before it, that after it, and the weight of the latter."""
        # in cells, from the centre of the first
        at = (np.arange(start, start + length) + 0.5) / self.cell - 0.5
        before = np.floor(at).astype(np.int64)
        weight = (at - before).astype(np.float32)
        return before.clip(0, count - 1), (before + 1).clip(0, count - 1), weight


def background_map(
    overview: np.ndarray, background: tuple[int, int, int] | None, cell: int, tolerance: int = 12
) -> BackgroundMap:
    """Return the background map of a slide from an overview.

    Args:
        overview: uint8 (rows, columns, 3); one pixel is the mean of one cell.
        background: colour of the background; None where there is none, and all counts as tissue.
        cell: side of a cell in pixels of the slide.
        tolerance: of 255. A cell is background if no channel differs by more from the background.
    """
    if background is None:
        return BackgroundMap(np.ones(overview.shape[:2], bool), cell)
    low, high = (np.array(background) + sign * tolerance for sign in (-1, 1))
    return BackgroundMap(np.asarray(((overview < low) | (overview > high)).any(axis=2)), cell)


def _opacity_of_cells(occupied: np.ndarray) -> np.ndarray:
    """Opacity of cells, float16; computed by windows of rows, since cells beyond ``FAR`` have no effect."""
    opacity = np.empty(occupied.shape, np.float16)  # finer than the 8 bits of what it blends
    for y in range(0, len(occupied), _WINDOW):
        top, end = max(0, y - FAR), min(len(occupied), y + _WINDOW)
        part = (~occupied[top : end + FAR]).astype(np.uint8)
        distance = cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[y - top :][: end - y]
        opacity[y:end] = np.clip((FAR - distance) / (FAR - NEAR), 0, 1)
    return opacity


REACH = FAR + 2
"""Cells around a region that affect it: those of the opacity, and of interpolation between cells."""


class BackgroundWindow:
    """A window of a background map: the cells around a region of a slide.

    Args:
        occupied: bool (rows, columns) of the window's cells.
        cells: their indices; `REACH` more on every side than the regions that are queried, or up to the
            map's edge.
        cell: side of a cell in pixels.

    Determinism: values are, bit for bit, those of the map of the whole slide.
    """

    def __init__(self, occupied: np.ndarray, cells: Region, cell: int) -> None:
        self._map = BackgroundMap(occupied, cell)
        self._y, self._x = cells.y * cell, cells.x * cell

    def fraction(self, region: Region) -> float:
        """Return the share of the cells touched by a region that are not background, in [0, 1]."""
        return self._map.fraction(region.shift(-self._y, -self._x))

    def range(self, region: Region) -> tuple[float, float]:
        """Return bounds of the opacity in a region, without computing it."""
        return self._map.range(region.shift(-self._y, -self._x))

    def opacity(self, region: Region) -> np.ndarray:
        """Return the opacity of the translated pixels over their source: float32 (height, width)."""
        return self._map.opacity(region.shift(-self._y, -self._x))
