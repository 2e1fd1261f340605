"""Find the background of a slide, in cells of 16 px, before its rows are translated.

`slide_background` looks at a slide that exists; `stage_background` at the stage above the last one of a slide
that is being sampled; `LocalBackground` finds the same as that, cell by cell, for regions of slides that are
never made.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.sampling.rows import RowSource
from wsigen.slide.mask import Mask
from wsigen.slide.pyramid import ceil_div, pad_edge
from wsigen.slide.read import BACKGROUND, WholeSlide
from wsigen.slide.tissue import (
    BACKGROUND_DARKEST,
    SMALL_SHARE,
    SPECK_UM2,
    background_colour,
    black_areas,
    drop_specks,
    is_grey,
    tissue_mask,
)
from wsigen.stain.engine.background import REACH, BackgroundMap, BackgroundWindow, background_map

CELL = 16
# Of 255, as in the sampler: pale tissue taken for background stays pink, the reverse only costs time.
TOLERANCE = 8
_STRIP = 16 * CELL

_BLOCK = 32  # cells a side that are decided together
_SIGHT = 16  # cells around a block that are looked at first
_KEPT = 16384  # blocks


@dataclass(frozen=True)
class SlideBackground:
    """The background of a slide.

    Args:
        colour: of the background, also for what the file leaves transparent.
        map: where it is.
    """

    colour: Colour
    map: BackgroundMap


def slide_background(slide: WholeSlide, mask: Mask | None = None) -> SlideBackground:
    """Find the background of a slide that exists. Where none is found, all counts as tissue.

    Black areas count as background: what the scanner left out is no tissue to stain.

    Args:
        slide: to look at.
        mask: outside which all is background, in the slide's pixels; None for no such limit.

    Raises:
        SlideError: the slide is grey, so that stains cannot be told apart; or it cannot be read.

    Memory: 9 bytes for each cell of 16 × 16 pixels.
    """
    mpp, height, width = slide.mpp * CELL, slide.size.height, slide.size.width
    grid = Region(0, 0, ceil_div(height, CELL), ceil_div(width, CELL))
    cells = slide.read_region(grid, mpp)
    whole = cells[: height // CELL, : width // CELL]
    # a slide smaller than a cell has no colour of its own
    colour = _colour(whole, mpp) if whole.size else None
    if colour is not None:
        cells[(cells == BACKGROUND).all(axis=2)] = colour  # transparent parts
        # The last cells reach past the slide's edge: read them again, with background beyond it.
        for edge in (Region(grid.height - 1, 0, 1, grid.width), Region(0, grid.width - 1, grid.height, 1)):
            cells[edge.y : edge.y1, edge.x : edge.x1] = slide.read_region(edge, mpp, colour)
    found = background_map(cells, colour, CELL, TOLERANCE)
    shown = whole[found.occupied[: len(whole), : whole.shape[1]]]
    # on a small slide, background may count as occupied
    shown = shown[shown.min(axis=1) < BACKGROUND_DARKEST]
    if shown.size and (not np.ptp(whole, axis=2).any() or is_grey(shown)):
        raise SlideError(slide.path, "is grey; a stainer needs the colours of H&E: give the slide in RGB")
    found = found if colour is None else _without_dust(found, slide.mpp)
    black = black_areas(cells, mpp)
    if black.any():
        found = BackgroundMap(found.occupied & ~black, CELL)
    if mask is not None:
        found = BackgroundMap(found.occupied & mask.touched(grid.size, CELL * mask.scale), CELL)
    return SlideBackground(colour or BACKGROUND, found)


def _without_dust(found: BackgroundMap, mpp: float) -> BackgroundMap:
    """Count dust as background: there is no tissue to stain, and none to take statistics from."""
    return BackgroundMap(drop_specks(found.occupied, mpp * CELL), CELL)


def _colour(cells: np.ndarray, mpp: float) -> Colour | None:
    tissue, transparent = tissue_mask(cells, mpp), (cells == BACKGROUND).all(axis=2)
    return background_colour(cells, tissue | transparent) or background_colour(cells, tissue)


def stage_background(above: RowSource, size: Size, k: int, *, mpp: float, colour: Colour) -> BackgroundMap:
    """Find the background of a slide that is about to be sampled, from the stage that guides it.

    Args:
        above: the finished stage above, of at least ``size / k`` pixels.
        size: of the slide in pixels.
        k: factor between the two.
        mpp: µm/px of the slide.
        colour: of the background.

    Memory: 3 bytes for each cell of 16 × 16 pixels, and 256 rows of the stage above.

    Determinism: a function of the stage's pixels.
    """
    shown, cells = size.over(k), size.over(CELL)
    means = np.empty((*cells.sides, 3), np.uint8)
    for y in range(0, shown.height, _STRIP):
        strip = cell_means(above.read(Region(y, 0, min(_STRIP, shown.height - y), shown.width)), k)
        top = y // CELL * k  # each 16 rows of the stage above are k rows of cells
        means[top : top + len(strip)] = strip[: cells.height - top, : cells.width]
    return _without_dust(background_map(means, colour, CELL, TOLERANCE), mpp)


def cell_means(pixels: np.ndarray, k: int) -> np.ndarray:
    """Return the mean colours of the cells that pixels of the stage above show: uint8 (rows, columns, 3).

    Args:
        pixels: uint8 (height, width, 3), from a multiple of 16 on. Its last row and column are repeated
            where it does not end at one.
        k: factor between the stages.
    """
    # Each 16 pixels of the stage above are k cells, whatever k is.
    whole = pad_edge(pixels, *(ceil_div(n, CELL) * CELL for n in pixels.shape[:2]))
    height, width = (n // CELL * k for n in whole.shape[:2])
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


class LocalBackground:
    """What `stage_background` finds, without the whole stage above.

    A cell's colour decides whether it is background. Dust, connected parts of few cells, is decided by its
    surroundings: a part with enough cells within sight is tissue, a part that ends within sight with too few
    is dust; otherwise the sight is doubled. Since dust is small, that ends soon.

    Args:
        above: the stage above, of at least ``size / k`` pixels; any of its regions can be read.
        size: of the slide in pixels.
        k: factor between the two, a divisor of 16.
        mpp: µm/px of the slide.
        colour: of the background.

    Memory: 2 KiB for each block of 32 × 32 cells that was asked for, 32 MiB at most.

    Determinism: bit for bit the values of the map of the whole slide.
    """

    def __init__(self, above: RowSource, size: Size, k: int, *, mpp: float, colour: Colour) -> None:
        self._above, self._shown, self._k, self._colour = above, size.over(k).region, k, colour
        cells = size.over(CELL)
        self._bounds = cells.region
        self._least = min(SPECK_UM2 / (mpp * CELL) ** 2, SMALL_SHARE * cells.area)
        self._found: dict[bool, OrderedDict[tuple[int, int], np.ndarray]] = {
            dusty: OrderedDict() for dusty in (True, False)
        }

    def fraction(self, region: Region) -> float:
        """Return the part of the cells a region touches that is occupied, in [0, 1]."""
        return self._window(region).fraction(region)

    def range(self, region: Region) -> tuple[float, float]:
        """Return bounds of the opacity in a region, found without computing it."""
        return self._window(region).range(region)

    def opacity(self, region: Region) -> np.ndarray:
        """Return how much of the translated pixel is shown: float32 (height, width)."""
        return self._window(region).opacity(region)

    def occupied(self, cells: Region) -> np.ndarray:
        """Return which cells are not background: bool (rows, columns).

        Args:
            cells: indices, inside the slide.
        """
        return self._gather(cells, dusty=False)

    def _window(self, region: Region) -> BackgroundWindow:
        y, x, y1, x1 = region.y // CELL, region.x // CELL, -(-region.y1 // CELL), -(-region.x1 // CELL)
        cells = Region(y, x, y1 - y, x1 - x).pad(REACH).intersect(self._bounds)
        return BackgroundWindow(self.occupied(cells), cells, CELL)

    def _gather(self, cells: Region, *, dusty: bool) -> np.ndarray:
        """Collect cells from the blocks that they lie in."""
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
            found[row, col] = self._by_colour(block) if dusty else self._without_dust(block)
        found.move_to_end((row, col))
        values = found[row, col]
        while len(found) > _KEPT:
            found.popitem(last=False)
        return values

    def _by_colour(self, block: Region) -> np.ndarray:
        # CELL is a multiple of k, so blocks end on whole pixels above
        y, x, y1, x1 = (n * CELL // self._k for n in (block.y, block.x, block.y1, block.x1))
        shown = Region(y, x, y1 - y, x1 - x).intersect(self._shown)
        means = cell_means(self._above.read(shown), self._k)
        return background_map(means[: block.height, : block.width], self._colour, CELL, TOLERANCE).occupied

    def _without_dust(self, block: Region) -> np.ndarray:
        sight = _SIGHT
        while True:
            seen = block.pad(sight).intersect(self._bounds)
            kept, certain = self._large_parts(seen)
            spot = block.shift(-seen.y, -seen.x)
            part = (slice(spot.y, spot.y1), slice(spot.x, spot.x1))
            if certain[part].all():
                return kept[part].copy()
            sight *= 2

    def _large_parts(self, seen: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return which cells belong to large parts, and for which cells that is certain."""
        occupied = self._gather(seen, dusty=True)
        count, labels = cv2.connectedComponents(occupied.astype(np.uint8), connectivity=4)
        labels = np.asarray(labels, np.intp)
        large = np.bincount(labels.ravel(), minlength=count) >= self._least
        large[0] = False  # label 0 is the background
        goes_on = np.zeros(count, bool)
        for edge, open_end in (
            (labels[0], seen.y > 0),
            (labels[-1], seen.y1 < self._bounds.height),
            (labels[:, 0], seen.x > 0),
            (labels[:, -1], seen.x1 < self._bounds.width),
        ):
            if open_end:
                goes_on[edge] = True
        goes_on[0] = False  # background that leaves the window is still background
        return large[labels], (large | ~goes_on)[labels]
