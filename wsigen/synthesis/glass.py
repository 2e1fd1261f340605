"""Where a slide is bare glass, in cells of 16 px, before its rows are translated."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region
from wsigen.sampling.rows import RowSource
from wsigen.slide.pyramid import ceil_div, pad_edge
from wsigen.slide.read import BACKGROUND, WholeSlide
from wsigen.slide.tissue import background_colour, drop_specks, tissue_mask
from wsigen.stain.engine.background import BackgroundMap, background_map

CELL = 16
# Of 255, the sampler's own: pale tissue that is left out keeps its pink, glass that is taken in costs time.
TOLERANCE = 8
_STRIP = 16 * CELL


@dataclass(frozen=True)
class SlideGlass:
    """The glass of a slide.

    Args:
        colour: of bare glass, for what the file leaves transparent.
        map: where it is.
    """

    colour: Colour
    map: BackgroundMap


def slide_glass(slide: WholeSlide) -> SlideGlass:
    """Find the glass of a slide that exists. Where none can be seen, all is taken for tissue.

    Args:
        slide: any.

    Raises:
        SlideError: the slide is grey, so that no stain can be told from another; or it cannot be read.

    Memory: 9 bytes for each cell of 16 × 16 pixels.
    """
    mpp, height, width = slide.mpp * CELL, slide.size.height, slide.size.width
    grid = Region(0, 0, ceil_div(height, CELL), ceil_div(width, CELL))
    cells = slide.read_region(grid, mpp)
    whole = cells[: height // CELL, : width // CELL]
    colour = _colour(whole, mpp) if whole.size else None
    if colour is not None:
        cells[(cells == BACKGROUND).all(axis=2)] = colour  # transparent parts
        # The last cells reach outside, where there is nothing but glass.
        for edge in (Region(grid.height - 1, 0, 1, grid.width), Region(0, grid.width - 1, grid.height, 1)):
            cells[edge.y : edge.y1, edge.x : edge.x1] = slide.read_region(edge, mpp, colour)
    found = background_map(cells, colour, CELL, TOLERANCE)
    if whole.size and found.occupied.any() and not np.ptp(whole, axis=2).any():
        raise SlideError(slide.path, "is grey; a stainer needs the colours of H&E: give the slide in RGB")
    return SlideGlass(colour or BACKGROUND, found if colour is None else _without_dust(found, slide.mpp))


def _without_dust(glass: BackgroundMap, mpp: float) -> BackgroundMap:
    """Dust stays what it is: there is no tissue to stain, and none to normalise it by."""
    return BackgroundMap(drop_specks(glass.occupied, mpp * CELL), CELL)


def _colour(cells: np.ndarray, mpp: float) -> Colour | None:
    tissue, transparent = tissue_mask(cells, mpp), (cells == BACKGROUND).all(axis=2)
    return background_colour(cells, tissue | transparent) or background_colour(cells, tissue)


def stage_glass(above: RowSource, extent: int, k: int, *, mpp: float, colour: Colour) -> BackgroundMap:
    """The glass of a slide that is about to be sampled, from the stage above it, which guides it.

    Args:
        above: the finished stage above, ``extent / k`` pixels a side.
        extent: side of the slide in pixels.
        k: factor between the two.
        mpp: µm/px of the slide.
        colour: of the slide's glass.

    Memory: 3 bytes for each cell of 16 × 16 pixels, and 256 rows of the stage above.

    Determinism: a function of the stage's pixels.
    """
    side, cells = extent // k, ceil_div(extent, CELL)
    means = np.empty((cells, cells, 3), np.uint8)
    for y in range(0, side, _STRIP):
        strip = cell_means(above.read(Region(y, 0, min(_STRIP, side - y), side)), k)
        top = y // CELL * k
        means[top : top + len(strip)] = strip[: cells - top, :cells]
    return _without_dust(background_map(means, colour, CELL, TOLERANCE), mpp)


def cell_means(pixels: np.ndarray, k: int) -> np.ndarray:
    """Mean colours of the cells that pixels of the stage above show: uint8 (rows, columns, 3).

    Args:
        pixels: uint8 (height, width, 3), from a multiple of 16 on. The last row and column go on where they
            do not end at one.
        k: factor between the stages.
    """
    # Each 16 pixels of the stage above are k cells, whatever k is.
    whole = pad_edge(pixels, *(ceil_div(n, CELL) * CELL for n in pixels.shape[:2]))
    height, width = (n // CELL * k for n in whole.shape[:2])
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
