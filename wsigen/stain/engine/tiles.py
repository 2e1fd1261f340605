"""The tiles that a slide is rendered in, and which rows of the slide and of its nodes they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsigen.geometry import Region, Size
from wsigen.stain.engine.nodes import PATCH, NodeAxis, NodeGrid
from wsigen.stain.normalise.norm import Norm

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
        """Return the first pixel that is written, and the first after it."""
        return self.borders[i], self.borders[i + 1]

    def read(self, i: int) -> tuple[int, int]:
        """Return the first pixel that is read, and the first after it."""
        length = self.borders[-1]
        start, end = max(0, self.borders[i] - self.halo), min(length, self.borders[i + 1] + self.halo)
        # what is too short for the network grows, inwards where it meets the border
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
        """The core, relative to the region read."""
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
        """Return tiles of one size from the slide's origin; the last ones take the rest.

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
        """Return one tile for each cell of a grid of nodes."""
        axes = (NodeAxis(length, pitch) for length in (size.height, size.width))
        rows, cols = (TileAxis((*(a.cell(i)[0] for i in range(a.count)), a.length), halo) for a in axes)
        return cls(rows, cols)

    def row(self, i: int) -> list[Tile]:
        """Return the tiles of one row, from left to right."""
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


@dataclass(frozen=True)
class Schedule:
    """The dependencies of one network's tiles.

    Args:
        tiles: of the slide.
        nodes: along the height; None where no statistics are measured on the way.
        norm: None for a network that is rendered as it is.
        stride: of the network.
    """

    tiles: TileGrid
    nodes: NodeAxis | None
    norm: Norm | None
    stride: int = 4

    @classmethod
    def of(
        cls, padded: Size, halo: int, *, norm: Norm | None, tile: int, pitch: int = PATCH, stride: int = 4
    ) -> Schedule:
        """Return the dependencies for a slide.

        Args:
            padded: size of the slide, a multiple of ``stride``.
            halo: of the network.
            norm: how it is normalised.
            tile: side of the tiles; those of a norm with the scope "tile" are the patches instead.
            pitch: of the nodes.
            stride: of the network.
        """
        if norm is not None and norm.normaliser.scope == "tile":
            return cls(TileGrid.of_cells(padded, pitch, halo), None, norm, stride)
        nodes = NodeGrid.of(padded, pitch, stride).rows if norm is not None and norm.is_local else None
        return cls(TileGrid.of(padded, tile, halo, stride), nodes, norm, stride)

    def fields(self, row: int) -> tuple[int, int]:
        """Return the rows of nodes [first, stop) of the fields of a row of tiles."""
        assert self.nodes is not None
        assert self.norm is not None
        return self.nodes.needed(*self.tiles.rows.read(row), self.norm)

    def measured(self, row: int) -> tuple[int, int]:
        """Return the rows of nodes [first, stop) that these fields depend on."""
        if self.nodes is None or self.norm is None:
            return 0, 0
        first, stop = self.fields(row)
        reach = self.norm.normaliser.reach
        return max(0, first - reach), min(self.nodes.count, stop + reach)

    def first_source(self, row: int) -> int:
        """Return the first row of the slide that a row of tiles depends on."""
        start, _ = self.tiles.rows.read(row)
        first, stop = self.measured(row)
        return min(start, self.nodes.patch(first)[0]) if self.nodes and stop else start

    def source_end(self, row: int) -> int:
        """Return the row of the slide after the last one that a row of tiles depends on."""
        _, end = self.tiles.rows.read(row)
        _, stop = self.measured(row)
        return max(end, self.nodes.patch(stop - 1)[1]) if self.nodes and stop else end


def rows_alive(schedules: Sequence[Schedule], first: int = 0) -> int:
    """Return how many rows of the slide must be held to render all networks, one row of tiles at a time.

    Args:
        schedules: of the networks, with the same rows of tiles and nodes.
        first: row of tiles to begin with.
    """
    tiles, nodes = schedules[0].tiles.rows, schedules[0].nodes
    ends = [max(s.source_end(i) for s in schedules) for i in range(first, tiles.count)]
    starts = [min(s.tiles.rows.read(i)[0] for s in schedules) for i in range(first, tiles.count)]
    begin = min(s.measured(first)[0] for s in schedules)
    patches = [nodes.patch(j) for j in range(begin, nodes.count)] if nodes else []
    alive = i = j = 0
    for end in sorted({*ends, *(patch[1] for patch in patches)}):  # until then, nothing can be dropped
        while i < len(ends) and ends[i] < end:
            i += 1
        while j < len(patches) and patches[j][1] < end:
            j += 1
        held = [starts[i]] if i < len(ends) else []
        held += [patches[j][0]] if j < len(patches) else []
        alive = max(alive, end - min(held))
    return alive
