"""Translating a slide in one sweep: rows of H&E in, rows of its stains out, in order.

A row of tiles is rendered as soon as the statistics of the nodes around it are known, which is one row of
nodes ahead of it, two with the filling of background. Tiles lie on a grid from the slide's origin and carry
real pixels around them; statistics are fields over the slide. So nothing of a tile can be seen in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.runtime import format_bytes
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.nodes import PATCH, NodeGrid
from wsigen.stain.engine.plan import MEMORY, TileSize, check_grid, padded_size, plan_translation
from wsigen.stain.engine.render import (
    GPU_LOAD,
    Branch,
    Compute,
    Constant,
    RowRenderer,
    check_channels,
    common_stride,
    halo_of,
    place,
    prepare,
)
from wsigen.stain.engine.statistics import NodeMeter
from wsigen.stain.engine.tiles import Schedule, rows_alive
from wsigen.stain.normalise.norm import Norm

__all__ = ["Norm", "StreamTranslator"]

DENSE = Norm()


class StreamTranslator:
    """Translates the rows of a slide with one or several networks, reading each row once.

    Args:
        nets: the generators, with attributes ``halo`` and, if it is not 4, ``stride``. They are moved to the
            device and their instance norms replaced, in place.
        size: of the slide in pixels.
        norm: how they are normalised; None to render networks without norm layers as they are.
        background: where the slide is bare background, which is copied; None to translate all of it.
        pitch: distance of the nodes where statistics are measured, px; of patches where each has its own.
        tile: side of the tiles, px; "auto" chooses by the device and the memory.
        device: that runs the networks.
        dtype: of their weights and features.
        batch: tiles per network call, at most; None gives a GPU enough to do. On the CPU always 1.
        start: first row of the output that is wanted.
        constant: each network's statistics, for a norm that is constant (`wsigen.stain.engine.statistics`).
        memory: bytes of host memory that ``tile="auto"`` may plan for.

    Memory: `wsigen.stain.engine.plan.plan_translation`; independent of the slide's height.

    Determinism: rows are a function of the slide's pixels, networks, norm, background and pitch. How the rows
        are cut, and where the output starts, changes nothing. Nor does the tile in float32 on the CPU, bit
        for bit; elsewhere it changes rounding. Small sums round with the number of threads.

    Raises:
        InvalidValueError: a network, a grid or statistics that cannot be.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        size: Size,
        *,
        norm: Norm | None = DENSE,
        background: BackgroundMap | None = None,
        pitch: int = PATCH,
        tile: TileSize = "auto",
        device: torch.device = torch.device("cpu"),
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
        start: int = 0,
        constant: Sequence[Constant] | None = None,
        memory: int = MEMORY,
    ) -> None:
        _check(nets, norm, constant)
        if tile == "auto":
            plan = plan_translation(
                size, nets, norm=norm, pitch=pitch, batch=batch, dtype=dtype, device=device, memory=memory
            )
            if plan.host_bytes > memory:
                raise InvalidValueError(
                    f"a slide {size.width} px wide takes {format_bytes(plan.host_bytes)} with tiles of "
                    f"{plan.tile} px, but {format_bytes(memory)} are allowed; allow more memory"
                )
            tile = plan.tile
        stride = common_stride(nets)
        check_grid(size, tile, pitch, stride)
        padded = padded_size(size, nets)
        schedules = [
            Schedule.of(padded, halo_of(net), norm=norm, tile=tile, pitch=pitch, stride=stride)
            for net in nets
        ]
        layers = [(place if norm is None else prepare)(net, device, dtype) for net in nets]
        area = schedules[0].tiles.largest_read.area
        machine = Compute(device, dtype, GPU_LOAD if batch is None else batch * area)
        grid = NodeGrid.of(padded, pitch, stride) if norm is not None and norm.is_local else None
        known = [own for own in layers if own is not None]
        self._meter = None if grid is None else NodeMeter(known, grid, background, machine)
        self._renderers = [
            RowRenderer(Branch(net, own, schedule, grid=grid, constant=stats), size, background, machine)
            for net, own, schedule, stats in zip(
                nets, layers, schedules, constant or [None] * len(nets), strict=True
            )
        ]
        self.size, self.tile, self._schedules = size, tile, schedules
        self._begin(padded, start)

    @property
    def first_source_row(self) -> int:
        """Row of the slide to push first; its height if nothing is left to do."""
        return self._first

    @property
    def rows_alive(self) -> int:
        """Rows of the slide that are held."""
        return 0 if self._buffer is None else self._buffer.capacity

    def push(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the next rows of the slide; yield what they complete. Exhaust it before the next call.

        Args:
            rows: uint8 (any height, width, 3), in order from ``first_source_row``.

        Yields:
            (index of the network, its next rows); of each network in order, from ``start`` to the last.

        Raises:
            InvalidValueError: rows of another shape or type, more rows than the slide has, or a network that
                gives no numbers.
        """
        if self._buffer is None:
            return
        while True:
            rows = rows[self._buffer.take(rows) :]
            yield from self._advance(self._buffer)
            if not len(rows):
                return

    def _begin(self, padded: Size, start: int) -> None:
        """Begin at the row of tiles that holds the first row wanted."""
        self._start, self._first, self._buffer = start, self.size.height, None
        tiles = self._schedules[0].tiles.rows
        self._row = next((i for i in range(tiles.count) if tiles.core(i)[1] > start), tiles.count)
        if start >= self.size.height:
            return
        self._first = min(schedule.first_source(self._row) for schedule in self._schedules)
        self._node = min(schedule.measured(self._row)[0] for schedule in self._schedules)
        alive = rows_alive(self._schedules, self._row)
        self._buffer = RowBuffer(self.size, padded, alive, self._first)

    def _advance(self, buffer: RowBuffer) -> Iterator[tuple[int, np.ndarray]]:
        """Measure and render as far as the rows held allow, and drop rows that are no longer needed."""
        tiles = self._schedules[0].tiles.rows
        while True:
            self._measure(buffer)
            self._drop(buffer)
            if self._row == tiles.count or buffer.end < max(s.source_end(self._row) for s in self._schedules):
                return
            # the first row of tiles may begin above `start`
            surplus = max(0, self._start - tiles.core(self._row)[0])
            for i, renderer in enumerate(self._renderers):
                yield i, renderer.render(self._row, buffer.read)[surplus:]
            self._row += 1

    def _measure(self, buffer: RowBuffer) -> None:
        """Measure the rows of nodes that are complete."""
        if self._meter is None:
            return
        nodes = self._meter.grid.rows
        while self._node < nodes.count and nodes.patch(self._node)[1] <= buffer.end:
            measured = self._meter.measure(self._node, buffer.read)
            for renderer, values in zip(self._renderers, measured, strict=True):
                renderer.branch.put(self._node, values)
            self._node += 1

    def _drop(self, buffer: RowBuffer) -> None:
        needed = [self.size.height]
        if self._row < self._schedules[0].tiles.rows.count:
            needed += [schedule.tiles.rows.read(self._row)[0] for schedule in self._schedules]
        if self._meter is not None and self._node < self._meter.grid.rows.count:
            needed.append(self._meter.grid.rows.patch(self._node)[0])
        buffer.drop(min(needed))


def _check(nets: Sequence[nn.Module], norm: Norm | None, constant: Sequence[Constant] | None) -> None:
    if not nets:
        raise InvalidValueError("a slide is translated by at least one network, got none")
    for net in nets:
        check_channels(net)
        halo_of(net)
    wanted = norm is not None and norm.is_constant
    if wanted != (constant is not None) or (constant is not None and len(constant) != len(nets)):
        raise InvalidValueError(
            f"norm {norm.kind if norm else None} of {len(nets)} networks "
            + ("needs" if wanted else "takes no")
            + " statistics of the whole slide, one set for each network (prepare_constant), got "
            + ("none" if constant is None else str(len(constant)))
        )


class RowBuffer:
    """Some consecutive rows of a slide, in a ring; the slide's last column and row go on where it is padded.

    Args:
        size: of the slide in pixels.
        padded: of the slide with its padding at the right and at the bottom.
        capacity: rows that are kept, at most.
        first: the row that comes first.

    Memory: 3 · capacity · padded width bytes; touched, hence resident, as rows arrive.
    """

    def __init__(self, size: Size, padded: Size, capacity: int, first: int) -> None:
        self.size, self.padded, self.capacity = size, padded, capacity
        self.first = self.end = first
        self._pixels = np.empty((capacity, padded.width, 3), np.uint8)

    def take(self, rows: np.ndarray) -> int:
        """Keep as many of the next rows as there is room for; return how many.

        Args:
            rows: uint8 (any height, width, 3).

        Raises:
            InvalidValueError: rows of another shape or type, or more than the slide has.
        """
        if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[1:] != (self.size.width, 3):
            raise InvalidValueError(
                f"rows must be uint8 (any, {self.size.width}, 3), got {rows.dtype} {rows.shape}"
            )
        if len(rows) > self.size.height - min(self.end, self.size.height):
            raise InvalidValueError(
                f"a slide of {self.size.height} rows got {len(rows)} more after row {self.end}"
            )
        room, padding = self.first + self.capacity - self.end, self.padded.height - self.size.height
        count = min(len(rows), room)
        if self.end + count == self.size.height and count + padding > room:
            count = max(0, count - 1)  # the last row waits until there is room for its copies too
        # to the end of the ring, then from its beginning
        for part in np.split(rows[:count], [self._until_wrap()]):
            self._append(part)
        if count and self.end == self.size.height:
            for _ in range(padding):
                self._append(rows[count - 1 : count])
        return count

    def drop(self, row: int) -> None:
        """Drop the rows above this one."""
        self.first = max(self.first, min(row, self.end))

    def read(self, region: Region, out: np.ndarray) -> None:
        """Copy a region of the padded slide, whose rows are kept, into ``out``: uint8 (height, width, 3)."""
        assert self.first <= region.y <= region.y1 <= self.end, (region, self.first, self.end)
        slot = region.y % self.capacity
        # rows before the ring's end; the others are at its beginning
        head = min(region.height, self.capacity - slot)
        cols = slice(region.x, region.x1)
        out[:head] = self._pixels[slot : slot + head, cols]
        out[head:] = self._pixels[: region.height - head, cols]

    def _until_wrap(self) -> int:
        return self.capacity - self.end % self.capacity

    def _append(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        slot = self.end % self.capacity
        part = self._pixels[slot : slot + len(rows)]
        part[:, : self.size.width] = rows
        part[:, self.size.width :] = rows[:, -1:]
        self.end += len(rows)
