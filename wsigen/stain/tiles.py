"""The tiles that a slide is rendered in: cores that are written, with the real pixels around them."""

from __future__ import annotations

from dataclasses import dataclass

from wsigen.geometry import Region, Size
from wsigen.stain.nodes import NodeAxis

LEAST = 256
"""Least side of what a network is given, px, where the slide has as much.

Some kernels of the CPU sum in another order when a tensor is small (oneDNN is not used below 20 480 values).
"""


@dataclass(frozen=True)
class TileAxis:
    """Tiles along one axis of the slide.

    Args:
        borders: first pixel of each core, and the length of the axis.
        halo: pixels read to either side of a core; no further than the slide's edge, so that a network's own
            padding acts only there.
        least: pixels read at least.
    """

    borders: tuple[int, ...]
    halo: int
    least: int = 0

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.borders) - 1

    def core(self, i: int) -> tuple[int, int]:
        """First pixel that is written, and the first after it."""
        return self.borders[i], self.borders[i + 1]

    def read(self, i: int) -> tuple[int, int]:
        """First pixel that is read, and the first after it."""
        length = self.borders[-1]
        start, end = max(0, self.borders[i] - self.halo), min(length, self.borders[i + 1] + self.halo)
        start = max(0, min(start, length - self.least))
        return start, max(end, min(length, start + self.least))

    @property
    def pixels_read(self) -> int:
        """Length of all reads together, px."""
        return sum(end - start for start, end in map(self.read, range(self.count)))


@dataclass(frozen=True)
class Tile:
    """One tile.

    Args:
        core: what is written.
        read: what the network is given; contains the core.
    """

    core: Region
    read: Region

    @property
    def spot(self) -> Region:
        """The core in pixels of what is read."""
        return self.core.shift(-self.read.y, -self.read.x)


@dataclass(frozen=True)
class TileGrid:
    """All tiles of a slide.

    Args:
        rows: along the height.
        cols: along the width.
    """

    rows: TileAxis
    cols: TileAxis

    @classmethod
    def of(cls, size: Size, tile: int, halo: int, stride: int = 4) -> TileGrid:
        """Tiles of one size from the slide's origin; the last ones are as large as what is left.

        Args:
            size: of the slide; a multiple of ``stride``, as all lengths are.
            tile: side of a core.
            halo: around it.
            stride: reads begin at, and are as long as, multiples of this.
        """
        return cls(
            TileAxis(_multiples(size.height, tile), halo, _least(size.width, stride)),
            TileAxis(_multiples(size.width, tile), halo, _least(size.height, stride)),
        )

    @classmethod
    def of_cells(cls, size: Size, pitch: int, halo: int) -> TileGrid:
        """One tile for each cell of a grid of nodes."""
        axes = (NodeAxis(length, pitch) for length in (size.height, size.width))
        rows, cols = (TileAxis((*(a.cell(i)[0] for i in range(a.count)), a.length), halo) for a in axes)
        return cls(rows, cols)

    def row(self, i: int) -> list[Tile]:
        """The tiles of one row, from left to right."""
        core, read = self.rows.core(i), self.rows.read(i)
        return [
            Tile(_region(core, self.cols.core(j)), _region(read, self.cols.read(j)))
            for j in range(self.cols.count)
        ]

    @property
    def pixels_read(self) -> int:
        """Pixels that a network is given for all tiles."""
        return self.rows.pixels_read * self.cols.pixels_read

    @property
    def largest_read(self) -> Size:
        """Height and width of the largest region that a network is given."""
        height, width = (
            max(end - start for start, end in map(axis.read, range(axis.count)))
            for axis in (self.rows, self.cols)
        )
        return Size(height, width)

    @property
    def tallest(self) -> int:
        """Height of the tallest core."""
        return max(b - a for a, b in map(self.rows.core, range(self.rows.count)))


def _region(rows: tuple[int, int], cols: tuple[int, int]) -> Region:
    return Region(rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0])


def _multiples(length: int, tile: int) -> tuple[int, ...]:
    return (*range(0, length, tile), length)


def _least(across: int, stride: int) -> int:
    """Least side along one axis, so that a slide that is narrow across it is read in longer pieces."""
    return -(-(LEAST**2) // (stride * min(LEAST, across))) * stride
