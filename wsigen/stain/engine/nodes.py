"""The nodes of a slide's table of statistics: their patches, and the fields between them.

Cells of one pitch tile the slide from its origin. Up to a pitch of 512 px a node's patch is its cell; beyond,
it is the 512-px square in the cell's middle, so that a wider pitch measures fewer pixels.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import AnyBackground
from wsigen.stain.normalise import Axis, Field, LayerStats
from wsigen.stain.normalise.norm import Norm

PATCH = 512
"""Side of the patches that generators are trained on, and of those that statistics are measured on, px."""

_ENOUGH_TISSUE = 0.25
_NO_CONTRAST, _CONTRAST = 1.0, 2.0


@dataclass(frozen=True)
class NodeAxis:
    """Nodes along one axis of the slide.

    Args:
        length: of the axis, px, a multiple of ``stride``.
        pitch: of the cells, px, a multiple of ``stride``. The last cell takes the rest: it is between half a
            pitch and one and a half long, or shorter where it is the only one.
        stride: patches begin at multiples of this.
    """

    length: int
    pitch: int = PATCH
    stride: int = 4

    @cached_property
    def count(self) -> int:
        """Number of nodes."""
        # rounded: the last cell takes the rest, half a pitch to one and a half
        return max(1, (2 * self.length + self.pitch) // (2 * self.pitch))

    def cell(self, i: int) -> tuple[int, int]:
        """Return the first pixel of a cell, and the first after it."""
        return i * self.pitch, self.length if i == self.count - 1 else (i + 1) * self.pitch

    def patch(self, i: int) -> tuple[int, int]:
        """Return the first pixel of a node's patch, and the first after it."""
        start, end = self.cell(i)
        if self.pitch <= PATCH:
            return start, end
        side = min(PATCH, end - start)
        start += (end - start - side) // 2 // self.stride * self.stride  # in the middle of its cell
        return start, start + side

    @property
    def longest(self) -> int:
        """Length of the longest patch, px."""
        # all but the last are alike
        return max(end - start for start, end in (self.patch(0), self.patch(self.count - 1)))

    @property
    def pixels(self) -> int:
        """Length of all patches together, px."""
        return sum(end - start for start, end in map(self.patch, range(self.count)))

    @cached_property
    def centres(self) -> tuple[float, ...]:
        """Position of each node: the centre of its patch, px."""
        return tuple(sum(self.patch(i)) / 2 for i in range(self.count))

    def axis(self, first: int = 0, stop: int | None = None) -> Axis:
        """Return the positions of some nodes; the nearest one to a pixel is that of its cell."""
        stop = self.count if stop is None else stop
        borders = tuple(float(self.cell(i)[0]) for i in range(first + 1, stop))
        return Axis(self.centres[first:stop], borders)

    def bracket(self, start: int, end: int) -> tuple[int, int]:
        """Return the nodes [first, stop) between which pixels [start, end) are interpolated linearly.

        Always pairs: a window of a table that gave one node where the table gives two would round otherwise.
        """
        first, last = bisect_right(self.centres, start) - 1, bisect_left(self.centres, end) - 1
        return max(0, min(first, self.count - 2)), min(max(last, 0) + 2, self.count)

    def cells(self, start: int, end: int) -> tuple[int, int]:
        """Return the nodes [first, stop) whose cells hold the pixels [start, end)."""
        # the outer cells go on beyond the slide, and the last is longer than a pitch
        first, last = (min(max(at // self.pitch, 0), self.count - 1) for at in (start, end - 1))
        return first, last + 1

    def needed(self, start: int, end: int, norm: Norm) -> tuple[int, int]:
        """Return the nodes [first, stop) whose final statistics normalise the pixels [start, end)."""
        if norm.normaliser.interpolation == "nearest":
            return self.cells(start, end)
        # a block of feature pixels may have its centre beyond the tile
        margin = norm.granularity * self.stride if norm.granularity > 1 else 0
        return self.bracket(start - margin, end + margin)


@dataclass(frozen=True)
class NodeGrid:
    """All nodes of a slide.

    Args:
        rows: along the height.
        cols: along the width.
    """

    rows: NodeAxis
    cols: NodeAxis

    @classmethod
    def of(cls, size: Size, pitch: int = PATCH, stride: int = 4) -> NodeGrid:
        """Return the nodes of a slide of this size, which is a multiple of ``stride``."""
        return cls(NodeAxis(size.height, pitch, stride), NodeAxis(size.width, pitch, stride))

    @property
    def pixels(self) -> int:
        """Pixels of all patches together."""
        return self.rows.pixels * self.cols.pixels

    def patch(self, row: int, col: int) -> Region:
        """Return the patch of a node."""
        (y, y1), (x, x1) = self.rows.patch(row), self.cols.patch(col)
        return Region(y, x, y1 - y, x1 - x)

    def cell(self, row: int, col: int) -> Region:
        """Return the cell of a node."""
        (y, y1), (x, x1) = self.rows.cell(row), self.cols.cell(col)
        return Region(y, x, y1 - y, x1 - x)


def tissue_confidence(background: AnyBackground | None, patch: Region) -> float:
    """Return the confidence of a patch's statistics by its tissue, in [0, 1]: 1 from a quarter of tissue on.

    Args:
        background: of the slide; None for a slide without.
        patch: of a node.
    """
    return 1.0 if background is None else min(1.0, background.fraction(patch) / _ENOUGH_TISSUE)


def contrast_confidence(pixels: np.ndarray) -> float:
    """Return the confidence of a patch's 1/σ: 0 for a standard deviation of 1 grey level, 1 for 2.

    Args:
        pixels: uint8 (height, width, 3). The channel that varies most counts.
    """
    flat = pixels.reshape(-1, pixels.shape[-1])
    # histograms are exact, whatever the order of the pixels
    counts = [np.bincount(flat[:, c], minlength=256) for c in range(flat.shape[1])]
    levels, most = np.arange(256), 0.0
    for count in counts:
        mean = count @ levels / len(flat)
        most = max(most, float(count @ (levels - mean) ** 2) / len(flat))
    return float(np.clip((most**0.5 - _NO_CONTRAST) / (_CONTRAST - _NO_CONTRAST), 0, 1))


@dataclass(frozen=True)
class NodeRow:
    """Statistics of one row of nodes, the channels of all layers side by side.

    Args:
        mean: float32 (columns, channels); what is usual where nothing was measured.
        inv_std: 1/σ, likewise.
        confidence: float32 (columns,) in [0, 1]; 0 where nothing was measured.
    """

    mean: Float[Tensor, "cols c"]
    inv_std: Float[Tensor, "cols c"]
    confidence: Float[Tensor, " cols"]


class TableWindow:
    """The rows of nodes that are currently needed.

    Args:
        grid: of the nodes.
        norm: with statistics of nodes.
        channels: of each layer.

    Memory: 8 bytes for each node and channel: 5 MB for a row of a slide 65536 px wide and the published
        networks.

    Determinism: fields are functions of the nodes' statistics and positions, whatever window holds them.
    """

    def __init__(self, grid: NodeGrid, norm: Norm, channels: Sequence[int]) -> None:
        self.grid, self.norm, self.channels = grid, norm, tuple(channels)
        self._rows: dict[int, NodeRow] = {}

    def put(self, row: int, values: NodeRow) -> None:
        """Add a row of nodes."""
        self._rows[row] = values

    def drop(self, before: int) -> None:
        """Drop the rows of nodes before this one."""
        for row in [row for row in self._rows if row < before]:
            del self._rows[row]

    def fields(self, first: int, stop: int) -> list[Field]:
        """Return fields that are valid between the rows of nodes [first, stop), one for each layer."""
        wanted = Region(first, 0, stop - first, self.grid.cols.count)
        held = nodes_around(wanted, self.grid, self.norm)
        rows = [self._rows[row] for row in range(held.y, held.y1)]
        return fields_of(rows, held, wanted, self.grid, self.norm, self.channels)


def nodes_around(wanted: Region, grid: NodeGrid, norm: Norm) -> Region:
    """Return the nodes that the final statistics of some nodes depend on.

    Args:
        wanted: indices of nodes.
        grid: of all nodes.
        norm: with statistics of nodes.
    """
    return wanted.pad(norm.normaliser.reach).intersect(Region(0, 0, grid.rows.count, grid.cols.count))


def fields_of(
    rows: Sequence[NodeRow],
    held: Region,
    wanted: Region,
    grid: NodeGrid,
    norm: Norm,
    channels: Sequence[int],
) -> list[Field]:
    """Return fields that are valid between some nodes, one for each layer.

    Args:
        rows: statistics of the nodes held.
        held: their indices, `nodes_around` those wanted.
        wanted: indices of the fields' nodes.
        grid: of all nodes.
        norm: with statistics of nodes.
        channels: of each layer.
    """
    mean, inv_std = norm.normaliser.finish(
        *(torch.stack([getattr(row, name) for row in rows]) for name in ("mean", "inv_std", "confidence"))
    )
    inner = wanted.shift(-held.y, -held.x)
    nodes = (slice(inner.y, inner.y1), slice(inner.x, inner.x1))
    along, across = grid.rows.axis(wanted.y, wanted.y1), grid.cols.axis(wanted.x, wanted.x1)
    parts = zip(*(t[nodes].split(tuple(channels), dim=2) for t in (mean, inv_std)), strict=True)
    how = norm.normaliser.interpolation, norm.granularity
    return [Field(m.contiguous(), s.contiguous(), along, across, *how) for m, s in parts]


def side_by_side(stats: Sequence[LayerStats]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Return mean and 1/σ of all layers in one tensor each."""
    return torch.cat([layer.mean for layer in stats], 1), torch.cat([layer.inv_std for layer in stats], 1)
