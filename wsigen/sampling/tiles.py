"""Tiles of an upscaled stage: how it is cut, what the network sees for each, and which parts are skipped.

Background is skipped in cells of a lattice that is fixed to the stage, and decided by the guide alone: so the
result does not depend on how the stage is cut into tiles. A tile needs none, some or all of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool

from wsigen.geometry import Region
from wsigen.sampling.spec import Execution, UpscaleSpec

CELL = 32
"""Guide pixels a side of a cell."""

LEAST = 128
"""Least side of the network's input, in guide pixels.

oneDNN does not take convolutions of fewer than 20 480 values, and other kernels sum in another order. From
here on results were the same to the last bit, for every shape from 128 × 128 to 600 × 600 and any number of
tiles at once: features of at least 20 channels a quarter as fine as the guide are then large enough.
"""

# Guide pixels. The larger, the less of the network's input is halo: 27 % at 512, 15 % at 1024.
_TILE, _CUDA_TILE = 512, 1024


def cells_of(region: Region) -> Region:
    """Return the cells that a region of the guide touches, as a Region of cell indices."""
    y, x = region.y // CELL, region.x // CELL
    return Region(y, x, -(-region.y1 // CELL) - y, -(-region.x1 // CELL) - x)


def pixels_of(cells: Region) -> Region:
    """Return the guide pixels of a block of cells."""
    return Region(cells.y * CELL, cells.x * CELL, cells.height * CELL, cells.width * CELL)


def needed_cells(
    occupied: Bool[np.ndarray, "h w"], held: Region, cells: Region, margin: int
) -> Bool[np.ndarray, "rows cols"]:
    """Return which cells, with the margin around them, show something other than background.

    Args:
        occupied: which guide pixels of ``held`` are not background.
        held: region of the guide that covers the cells and their margin, as far as the canvas goes.
        cells: indices of the cells.
        margin: guide pixels around a cell that must be background as well.
    """
    # Occupied pixels above and left of each corner: four of these counts give the number in any rectangle.
    counts = np.pad(occupied.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0)))
    y0, y1 = _bounds(cells.y, cells.height, held.y, held.height, margin)
    x0, x1 = _bounds(cells.x, cells.width, held.x, held.width, margin)
    inside = counts[y1][:, x1] - counts[y0][:, x1] - counts[y1][:, x0] + counts[y0][:, x0]
    return inside > 0


def box_of(needed: Bool[np.ndarray, "rows cols"], cells: Region) -> Region:
    """Return the smallest region of the guide that holds every needed cell; empty if there is none."""
    rows, cols = np.flatnonzero(needed.any(axis=1)), np.flatnonzero(needed.any(axis=0))
    if not len(rows):
        return Region(0, 0, 0, 0)
    y, x = cells.y + int(rows[0]), cells.x + int(cols[0])
    return pixels_of(Region(y, x, int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1))


def _bounds(first: int, count: int, start: int, length: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    edges = CELL * np.arange(first, first + count + 1) - start
    return np.clip(edges[:-1] - margin, 0, length), np.clip(edges[1:] + margin, 0, length)


@runtime_checkable
class Convolution(Protocol):
    """A network of limited reach."""

    @property
    def stride(self) -> int:
        """Inputs begin at, and are as high and wide as, multiples of this."""
        ...

    @property
    def radius(self) -> int:
        """Input pixels around its own that an output pixel depends on."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a stage is cut into tiles, and what is read for each.

    Args:
        spec: of the stage.
        tile: guide pixels a side, at most.
        stride: the network's input begins at, and is as long as, multiples of this.
        radius: guide pixels around its own that a pixel depends on.
    """

    spec: UpscaleSpec
    tile: int
    stride: int
    radius: int

    @classmethod
    def of(cls, spec: UpscaleSpec, upscaler: Convolution, tile: int) -> Tiling:
        """Return the tiling for an upscaler."""
        return cls(spec=spec, tile=tile, stride=upscaler.stride, radius=upscaler.radius)

    def cores(self, region: Region) -> list[Region]:
        """Cut a region of the stage into tiles of about one size; returns their guide pixels."""
        k = self.spec.k
        rows = _parts(region.y // k, -(-region.y1 // k), self.tile)
        cols = _parts(region.x // k, -(-region.x1 // k), self.tile)
        return [Region(y, x, y1 - y, x1 - x) for y, y1 in rows for x, x1 in cols]

    def network_input(self, box: Region, core: Region) -> Region:
        """Return the region of the guide that the network needs; may reach outside the canvas.

        Args:
            box: the part of ``core`` that is evaluated.
            core: of the tile. The result for a part never reaches beyond that for the whole.
        """
        # A small box is widened to the least input size; shifted back so that it stays within the tile's.
        outer, own = self._with_halo(core), self._with_halo(box)
        return own.shift(min(0, outer.y1 - own.y1), min(0, outer.x1 - own.x1))

    def read(self, core: Region) -> Region:
        """Return the region of the guide to read for a tile: network input, and the cells that touch it."""
        margin = self.spec.skip.margin if self.spec.skip else 0
        # At least one pixel around the cells, for bilinear interpolation at their edges.
        cells = pixels_of(cells_of(core)).pad(max(margin, 1))
        return _around([self._with_halo(core), cells]).intersect(self.spec.guide_bounds)

    def guide_region(self, region: Region) -> Region:
        """Return the region of the guide to read for a region of the stage, which is not empty."""
        return _around([self.read(core) for core in self.cores(region)])

    def _with_halo(self, core: Region) -> Region:
        y, y1 = self._span(core.y, core.y1)
        x, x1 = self._span(core.x, core.x1)
        return Region(y, x, y1 - y, x1 - x)

    def _span(self, start: int, end: int) -> tuple[int, int]:
        # Aligned with the stride, so that the network's coarser grids lie the same in every tile.
        first = (start - self.radius) // self.stride * self.stride  # of the slide's grid, not the tile's
        last = -(-(end + self.radius) // self.stride) * self.stride
        return first, max(last, first + -(-LEAST // self.stride) * self.stride)


def default_tile(device: torch.device) -> int:
    """Return the side of tiles, in guide pixels, that keeps a device busy without using much memory."""
    return _CUDA_TILE if device.type == "cuda" else _TILE


def tile_of(spec: UpscaleSpec, execution: Execution) -> int:
    """Return the side of a stage's tiles in guide pixels: equal ones of whole cells, at most ``tile``."""
    side = max(spec.size.over(spec.k).sides)
    count = -(-side // (execution.tile or default_tile(execution.device)))
    return -(-side // (count * CELL)) * CELL


def tile_rows(spec: UpscaleSpec, tile: int, from_row: int = 0) -> list[Region]:
    """Cut the stage, from some row on, into rows of tiles."""
    height = tile * spec.k
    # the first row of tiles is cut where a run is resumed; the others lie as always
    tops = [from_row, *range((from_row // height + 1) * height, spec.size.height, height)]
    ends = [*tops[1:], spec.size.height]
    return [Region(y, 0, end - y, spec.size.width) for y, end in zip(tops, ends, strict=True) if end > y]


def _around(regions: list[Region]) -> Region:
    y, x = min(r.y for r in regions), min(r.x for r in regions)
    return Region(y, x, max(r.y1 for r in regions) - y, max(r.x1 for r in regions) - x)


def _parts(start: int, end: int, largest: int) -> list[tuple[int, int]]:
    count = -(-(end - start) // largest)  # equal parts, rather than a narrow last one
    return list(pairwise(start + (end - start) * i // count for i in range(count + 1))) if count else []
