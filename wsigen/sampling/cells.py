"""Where an upscaler is needed: cells of a lattice that is fixed to the stage, decided by the guide alone.

What is skipped must not depend on how a stage is cut into tiles, so it is not tiles that are skipped but
cells; a tile merely has none, some or all of them.
"""

from __future__ import annotations

import numpy as np

from wsigen.geometry import Region

CELL = 32
"""Guide pixels a side of a cell."""


def cells_of(region: Region) -> Region:
    """The cells that a region of the guide touches: Region of indices."""
    y, x = region.y // CELL, region.x // CELL
    return Region(y, x, -(-region.y1 // CELL) - y, -(-region.x1 // CELL) - x)


def pixels_of(cells: Region) -> Region:
    """The guide pixels of a block of cells."""
    return Region(cells.y * CELL, cells.x * CELL, cells.height * CELL, cells.width * CELL)


def needed_cells(occupied: np.ndarray, held: Region, cells: Region, margin: int) -> np.ndarray:
    """Which cells show something, with the margin around them: bool (rows, columns).

    Args:
        occupied: which guide pixels are not background, bool (height, width).
        held: where these lie; all of the canvas that is in the cells and their margin.
        cells: indices of the cells.
        margin: guide pixels around a cell that must be background as well.
    """
    counts = np.pad(occupied.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0)))
    y0, y1 = _bounds(cells.y, cells.height, held.y, held.height, margin)
    x0, x1 = _bounds(cells.x, cells.width, held.x, held.width, margin)
    inside = counts[y1][:, x1] - counts[y0][:, x1] - counts[y1][:, x0] + counts[y0][:, x0]
    return inside > 0


def box_of(needed: np.ndarray, cells: Region) -> Region:
    """The smallest region of the guide that holds every cell needed; empty where there is none."""
    rows, cols = np.flatnonzero(needed.any(axis=1)), np.flatnonzero(needed.any(axis=0))
    if not len(rows):
        return Region(0, 0, 0, 0)
    y, x = cells.y + int(rows[0]), cells.x + int(cols[0])
    return pixels_of(Region(y, x, int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1))


def _bounds(first: int, count: int, start: int, length: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    edges = CELL * np.arange(first, first + count + 1) - start
    return np.clip(edges[:-1] - margin, 0, length), np.clip(edges[1:] + margin, 0, length)
