"""Translate any region of a slide by itself, to the pixels that a sweep over the slide gives it.

Statistics are functions of nodes, which are measured on their own patches; background is a function of
position; tiles carry the real pixels around them. So a region depends on the pixels within the network's halo
and on the patches of the nodes around it: a few million pixels, however large the slide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import AnyBackground
from wsigen.stain.engine.nodes import PATCH, NodeGrid, NodeRow, fields_of, nodes_around
from wsigen.stain.engine.plan import check_grid, padded_size
from wsigen.stain.engine.render import Branch, Compute, RowRenderer, halo_of, place, prepare, stride_of
from wsigen.stain.engine.statistics import NodeMeter
from wsigen.stain.engine.tiles import Schedule, Tile, TileAxis
from wsigen.stain.normalise import Field, NormLayers
from wsigen.stain.normalise.norm import Norm

DENSE = Norm()
_KEPT = 64 << 20

Node = tuple[Tensor, Tensor, Tensor]
"""Mean and 1/σ (1, channels), and confidence (1,)."""


class LocalTranslator:
    """Translates regions of a slide with one network, each by itself.

    Args:
        net: the generator, see `wsigen.stain.engine.stream.StreamTranslator`; changed as there.
        size: of the slide in pixels.
        read: pixels of any region inside the slide: uint8 (height, width, 3).
        norm: how it is normalised, with statistics of nodes; None to render a network without norm layers as
            it is.
        background: where the slide is bare background, which is copied; None to translate all of it.
        pitch: distance of the nodes, px.
        tile: side of what is rendered at once, px, at most.
        machine: that runs the network.

    Memory: a tile with its halo; the statistics of the nodes that were needed last, 64 MiB of them at most.

    Determinism: pixels are those of `StreamTranslator` with the same network, norm, background and pitch,
        whatever the region, the tile and what was read before: in float32 on the CPU bit for bit,
        elsewhere within rounding.

    Raises:
        InvalidValueError: another norm, or a network or a grid that cannot be.
    """

    def __init__(
        self,
        net: nn.Module,
        size: Size,
        read: Callable[[Region], np.ndarray],
        *,
        norm: Norm | None = DENSE,
        background: AnyBackground | None = None,
        pitch: int = PATCH,
        tile: int = PATCH,
        machine: Compute | None = None,
    ) -> None:
        if norm is not None and not norm.is_local:
            raise InvalidValueError(
                f"a part of a slide is normalised with the statistics of nodes, which norm {norm.kind} has "
                "none of; take norm dn, or translate the whole slide"
            )
        machine, stride = machine or Compute(), stride_of(net)
        check_grid(size, tile, pitch, stride)
        self.size, self._norm, self._read = size, norm, read
        self._machine, self._background = machine, background
        self._padded, self._tile, self._stride = padded_size(size, [net]), tile, stride
        self._net = net
        self._grid = NodeGrid.of(self._padded, pitch, stride)
        self._schedule = Schedule.of(
            self._padded, halo_of(net), norm=norm, tile=tile, pitch=pitch, stride=stride
        )
        self._layers, self._meter = None, None
        if norm is None:
            place(net, machine.device, machine.dtype)
        else:
            self._layers = prepare(net, machine.device, machine.dtype)
            self._meter = NodeMeter([self._layers], self._grid, background, machine)
        self._nodes: OrderedDict[tuple[int, int], Node] = OrderedDict()

    def read(self, region: Region) -> np.ndarray:
        """Translate a region inside the slide, not empty: uint8 (height, width, 3)."""
        whole = self._aligned(region)
        out = np.empty((whole.height, whole.width, 3), np.uint8)
        for core in self._cores(whole):
            spot = core.shift(-whole.y, -whole.x)
            out[spot.y : spot.y1, spot.x : spot.x1] = self._render(core)
        inner = region.shift(-whole.y, -whole.x)
        return out[inner.y : inner.y1, inner.x : inner.x1]

    def _aligned(self, region: Region) -> Region:
        # the network's coarser grids begin at multiples of its stride
        s = self._stride
        y, x, y1, x1 = region.y // s * s, region.x // s * s, -(-region.y1 // s) * s, -(-region.x1 // s) * s
        return Region(y, x, y1 - y, x1 - x)

    def _cores(self, whole: Region) -> list[Region]:
        rows, cols = (_parts(a, b, self._tile) for a, b in ((whole.y, whole.y1), (whole.x, whole.x1)))
        return [Region(y, x, y1 - y, x1 - x) for y, y1 in rows for x, x1 in cols]

    def _render(self, core: Region) -> np.ndarray:
        tile = self._tile_of(core)
        # bare background is copied: no statistics are needed for it
        nothing = self._background is not None and self._background.range(core)[1] == 0
        norm, layers = self._norm, self._layers
        fields = None if nothing or norm is None or layers is None else self._fields(tile.read, norm, layers)
        branch = Branch(self._net, self._layers, self._schedule, grid=None, constant=fields)
        renderer = RowRenderer(branch, self._padded, self._background, self._machine)
        return renderer.paint([tile], self._copy, core)

    def _tile_of(self, core: Region) -> Tile:
        """The tile of a core, with the halo that one of the slide's own tiles would read around it."""
        axes, (height, width) = self._schedule.tiles, (self._padded.height, self._padded.width)
        # cut before and after the core, so that tile 1 is the core, its halo clipped at the slide's borders
        rows = TileAxis((0, core.y, core.y1, height), axes.rows.halo, axes.rows.least)
        cols = TileAxis((0, core.x, core.x1, width), axes.cols.halo, axes.cols.least)
        (y, y1), (x, x1) = rows.read(1), cols.read(1)
        return Tile(core, Region(y, x, y1 - y, x1 - x))

    @torch.inference_mode()
    def _fields(self, read: Region, norm: Norm, layers: NormLayers) -> list[Field]:
        """Fields that normalise a region of network input."""
        grid = self._grid
        first, stop = grid.rows.needed(read.y, read.y1, norm)
        left, right = grid.cols.needed(read.x, read.x1, norm)
        wanted = Region(first, left, stop - first, right - left)
        held = nodes_around(wanted, grid, norm)
        rows = [self._row(row, range(held.x, held.x1)) for row in range(held.y, held.y1)]
        while len(self._nodes) * 8 * sum(layers.channels) > _KEPT:  # 8 bytes: mean and 1/σ in float32
            self._nodes.popitem(last=False)
        return fields_of(rows, held, wanted, grid, norm, layers.channels)

    def _row(self, row: int, cols: range) -> NodeRow:
        """Statistics of some nodes of a row, cached once measured."""
        missing = [col for col in cols if (row, col) not in self._nodes]
        if missing:
            # one call for the gap, known nodes within it included: full batches are quicker
            span = range(missing[0], missing[-1] + 1)
            assert self._meter is not None
            (found,) = self._meter.measure(row, self._copy, span)
            for i, col in enumerate(span):
                # a view would keep the whole row
                mean, inv_std = (part[i : i + 1].clone() for part in (found.mean, found.inv_std))
                self._nodes[row, col] = mean, inv_std, found.confidence[i : i + 1].clone()
        for col in cols:
            self._nodes.move_to_end((row, col))  # the least recently used are dropped first
        return NodeRow(
            *(torch.cat(parts) for parts in zip(*(self._nodes[row, c] for c in cols), strict=True))
        )

    def _copy(self, region: Region, out: np.ndarray) -> None:
        """Copy a region of the padded slide, which repeats the last row and column."""
        inside = region.intersect(self.size.region)
        pixels = self._read(inside)
        if inside != region:
            around = ((0, region.y1 - inside.y1), (0, region.x1 - inside.x1), (0, 0))
            pixels = np.pad(pixels, around, mode="edge")
        out[:] = pixels


def _parts(start: int, end: int, largest: int) -> list[tuple[int, int]]:
    return list(pairwise((*range(start, end, largest), end)))
