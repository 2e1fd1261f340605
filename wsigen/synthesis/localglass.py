"""Where a slide that is not there is bare glass: decided for any of its cells from the stage above, nearby.

A cell is glass by its own colour. Dust, the parts of a few connected cells that are left out, needs no more
than its surroundings either: a part that has enough cells within sight is none, one that ends within sight
and has too few is, and where neither can be seen, more is looked at. Dust being small, that ends soon.
"""

from __future__ import annotations

from collections import OrderedDict

import cv2
import numpy as np

from wsigen.geometry import Colour, Region
from wsigen.sampling.rows import RowSource
from wsigen.slide.pyramid import ceil_div
from wsigen.slide.tissue import SMALL_SHARE, SPECK_UM2
from wsigen.stain.engine.background import REACH, BackgroundWindow, background_map
from wsigen.synthesis.glass import CELL, TOLERANCE, cell_means

_BLOCK = 32
_SIGHT = 16
_KEPT = 16384


class LocalGlass:
    """What `wsigen.synthesis.glass.stage_glass` finds, without the whole stage above.

    Args:
        above: the stage above, ``extent / k`` pixels a side; any of its regions can be read.
        extent: side of the slide in pixels.
        k: factor between the two, a divisor of 16.
        mpp: µm/px of the slide.
        colour: of the slide's glass.

    Memory: 2 KiB for each block of 32 × 32 cells that was asked for, 32 MiB at most.

    Determinism: what it says of a pixel is, bit for bit, what the map of the whole slide says of it.
    """

    def __init__(self, above: RowSource, extent: int, k: int, *, mpp: float, colour: Colour) -> None:
        self._above, self._side, self._k, self._colour = above, extent // k, k, colour
        count = ceil_div(extent, CELL)
        self._bounds = Region(0, 0, count, count)
        self._least = min(SPECK_UM2 / (mpp * CELL) ** 2, SMALL_SHARE * count * count)
        self._found: dict[bool, OrderedDict[tuple[int, int], np.ndarray]] = {
            dusty: OrderedDict() for dusty in (True, False)
        }

    def fraction(self, region: Region) -> float:
        """The part of the cells a region touches that is occupied, in [0, 1]."""
        return self._window(region).fraction(region)

    def range(self, region: Region) -> tuple[float, float]:
        """Bounds of the opacity in a region, found without computing it."""
        return self._window(region).range(region)

    def opacity(self, region: Region) -> np.ndarray:
        """How much of the translated pixel is shown: float32 (height, width)."""
        return self._window(region).opacity(region)

    def occupied(self, cells: Region) -> np.ndarray:
        """Which cells are not glass: bool (rows, columns).

        Args:
            cells: indices, inside the slide.
        """
        return self._gather(cells, dusty=False)

    def _window(self, region: Region) -> BackgroundWindow:
        y, x, y1, x1 = region.y // CELL, region.x // CELL, -(-region.y1 // CELL), -(-region.x1 // CELL)
        cells = Region(y, x, y1 - y, x1 - x).pad(REACH).intersect(self._bounds)
        return BackgroundWindow(self.occupied(cells), cells, CELL)

    def _gather(self, cells: Region, *, dusty: bool) -> np.ndarray:
        """Cells, from the blocks that they lie in."""
        out = np.empty((cells.height, cells.width), bool)
        for row in range(cells.y // _BLOCK, ceil_div(cells.y1, _BLOCK)):
            for col in range(cells.x // _BLOCK, ceil_div(cells.x1, _BLOCK)):
                block = Region(row * _BLOCK, col * _BLOCK, _BLOCK, _BLOCK).intersect(self._bounds)
                part = block.intersect(cells)
                spot, source = part.shift(-cells.y, -cells.x), part.shift(-block.y, -block.x)
                values = self._block(row, col, block, dusty)[source.y : source.y1, source.x : source.x1]
                out[spot.y : spot.y1, spot.x : spot.x1] = values
        return out

    def _block(self, row: int, col: int, block: Region, dusty: bool) -> np.ndarray:
        found = self._found[dusty]
        if (row, col) not in found:
            found[row, col] = self._own(block) if dusty else self._without_dust(block)
        found.move_to_end((row, col))
        values = found[row, col]
        while len(found) > _KEPT:
            found.popitem(last=False)
        return values

    def _own(self, block: Region) -> np.ndarray:
        """Cells by their own colour."""
        y, x = block.y * CELL // self._k, block.x * CELL // self._k
        y1, x1 = (min(self._side, n * CELL // self._k) for n in (block.y1, block.x1))
        means = cell_means(self._above.read(Region(y, x, y1 - y, x1 - x)), self._k)
        return background_map(means[: block.height, : block.width], self._colour, CELL, TOLERANCE).occupied

    def _without_dust(self, block: Region) -> np.ndarray:
        sight = _SIGHT
        while True:
            seen = block.pad(sight).intersect(self._bounds)
            kept, certain = self._sizes(seen)
            spot = block.shift(-seen.y, -seen.x)
            part = (slice(spot.y, spot.y1), slice(spot.x, spot.x1))
            if certain[part].all():
                return kept[part].copy()
            sight *= 2

    def _sizes(self, seen: Region) -> tuple[np.ndarray, np.ndarray]:
        """Which cells belong to large parts, and of which that is certain."""
        occupied = self._gather(seen, dusty=True)
        count, labels = cv2.connectedComponents(occupied.astype(np.uint8), connectivity=4)
        labels = np.asarray(labels, np.intp)
        large = np.bincount(labels.ravel(), minlength=count) >= self._least
        large[0] = False
        goes_on = np.zeros(count, bool)
        for edge, open_end in (
            (labels[0], seen.y > 0),
            (labels[-1], seen.y1 < self._bounds.height),
            (labels[:, 0], seen.x > 0),
            (labels[:, -1], seen.x1 < self._bounds.width),
        ):
            if open_end:
                goes_on[edge] = True
        goes_on[0] = False
        return large[labels], (large | ~goes_on)[labels]
