"""Which rows of the slide, and of its nodes, a row of tiles depends on; how many rows that keeps alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsigen.geometry import Size
from wsigen.stain.nodes import PATCH, NodeAxis, NodeGrid
from wsigen.stain.norm import Norm
from wsigen.stain.tiles import TileGrid


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
        """The dependencies for a slide.

        Args:
            padded: size of the slide, a multiple of ``stride``.
            halo: of the network.
            norm: how it is normalised.
            tile: side of the tiles; "in" has one for each patch instead.
            pitch: of the nodes.
            stride: of the network.
        """
        if norm is not None and norm.kind == "in":
            return cls(TileGrid.of_cells(padded, pitch, halo), None, norm, stride)
        nodes = NodeGrid.of(padded, pitch, stride).rows if norm is not None and norm.is_local else None
        return cls(TileGrid.of(padded, tile, halo, stride), nodes, norm, stride)

    def fields(self, row: int) -> tuple[int, int]:
        """The rows of nodes [first, stop) that the fields of a row of tiles must have."""
        assert self.nodes is not None
        assert self.norm is not None
        start, end = self.tiles.rows.read(row)
        if self.norm.kind == "kin":
            return self.nodes.cells(start, end)
        # a block of feature pixels may have its centre beyond the tile
        margin = self.norm.granularity * self.stride if self.norm.granularity > 1 else 0
        return self.nodes.bracket(start - margin, end + margin)

    def measured(self, row: int) -> tuple[int, int]:
        """The rows of nodes [first, stop) that must have been measured for that."""
        if self.nodes is None or self.norm is None:
            return 0, 0
        first, stop = self.fields(row)
        return max(0, first - self.norm.reach), min(self.nodes.count, stop + self.norm.reach)

    def first_source(self, row: int) -> int:
        """The first row of the slide that a row of tiles depends on."""
        start, _ = self.tiles.rows.read(row)
        first, stop = self.measured(row)
        return min(start, self.nodes.patch(first)[0]) if self.nodes and stop else start

    def source_end(self, row: int) -> int:
        """The row of the slide after the last one that a row of tiles depends on."""
        _, end = self.tiles.rows.read(row)
        _, stop = self.measured(row)
        return max(end, self.nodes.patch(stop - 1)[1]) if self.nodes and stop else end


def rows_alive(schedules: Sequence[Schedule], first: int = 0) -> int:
    """Rows of the slide that must be held so that all networks can go on, one row of tiles at a time.

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
