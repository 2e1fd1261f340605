"""A window of a slide's table of statistics: rows of nodes as measured in, fields out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.geometry import Region
from wsigen.stain.engine.nodes import NodeGrid
from wsigen.stain.normalise import Field, LayerStats
from wsigen.stain.normalise.fill import fill_nodes
from wsigen.stain.normalise.norm import Norm, Table, kernel_average


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
        norm: "dn" or "kin".
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
        norm: "dn" or "kin".
    """
    return wanted.pad(norm.reach).intersect(Region(0, 0, grid.rows.count, grid.cols.count))


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
        norm: "dn" or "kin".
        channels: of each layer.
    """
    mean, inv_std = finish(
        torch.stack([r.mean for r in rows]),
        torch.stack([r.inv_std for r in rows]),
        torch.stack([r.confidence for r in rows]),
        norm,
    )
    inner = wanted.shift(-held.y, -held.x)
    nodes = (slice(inner.y, inner.y1), slice(inner.x, inner.x1))
    along, across = grid.rows.axis(wanted.y, wanted.y1), grid.cols.axis(wanted.x, wanted.x1)
    parts = zip(*(t[nodes].split(tuple(channels), dim=2) for t in (mean, inv_std)), strict=True)
    interpolation = "linear" if norm.kind == "dn" else "nearest"
    return [
        Field(m.contiguous(), s.contiguous(), along, across, interpolation, norm.granularity)
        for m, s in parts
    ]


def side_by_side(stats: Sequence[LayerStats]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Return mean and 1/σ of all layers in one tensor each."""
    return torch.cat([layer.mean for layer in stats], 1), torch.cat([layer.inv_std for layer in stats], 1)


def finish(
    mean: Table, inv_std: Table, confidence: Float[Tensor, "rows cols"], norm: Norm
) -> tuple[Table, Table]:
    """Fill nodes without tissue from those beside them, then apply the kernel of "kin".

    The kernel averages over nodes that are filled or measured on tissue; where there are none, nodes stay as
    they are.

    Args:
        mean: of all layers, as measured.
        inv_std: 1/σ, likewise.
        confidence: of the nodes.
        norm: "dn" or "kin".
    """
    mean, inv_std = fill_nodes(mean, inv_std, confidence)
    if norm.kind != "kin" or norm.size == 1:
        return mean, inv_std
    assert norm.size != "inf"
    known = _dilated(confidence > 0)[:, :, None].to(mean)
    weighted = torch.cat([mean * known, known / inv_std, known], 2)
    sums, _ = kernel_average(weighted, torch.ones_like(weighted), kind=norm.kernel, size=norm.size)
    centre, std, weight = sums.split([mean.shape[2], mean.shape[2], 1], dim=2)
    return torch.where(weight > 0, centre / weight, mean), torch.where(weight > 0, weight / std, inv_std)


def _dilated(known: Tensor) -> Tensor:
    """Nodes that are known or have a known one among their eight neighbours."""
    return torch.nn.functional.max_pool2d(known.float()[None], 3, stride=1, padding=1)[0] > 0
