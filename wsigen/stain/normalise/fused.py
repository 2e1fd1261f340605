"""Normalising features with a field: (x - mean(y, x)) · inv_std(y, x), then the layer's own weight and bias.

A field is separable: nodes are interpolated along rows first, for the few node columns that a tile sees, then
along columns for every pixel.

Memory: on the CPU a block of rows at a time, so that the field exists only in the cache and nothing is read
or written twice; on CUDA one kernel (`torch.compile`), which gathers four table entries per value.

Determinism: additions and multiplications are separate kernels, so that no compiler fuses them in the body of
a vector loop and not in its tail: on the CPU a value depends on its position on the slide alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from wsigen.stain.normalise.blocks import (
    Affine,
    block_size,
    blocks,
    buffer_for,
    compiled,
    compiles,
    dense,
    shaped,
)
from wsigen.stain.normalise.field import Field, Positions


class Places:
    """Where the tiles of a batch lie on a field; the same for all layers of one scale.

    Args:
        tiles: positions of each tile's rows and columns.
    """

    def __init__(self, tiles: Sequence[tuple[Positions, Positions]]) -> None:
        self.tiles = tuple(tiles)
        self._stacked: tuple[Tensor, ...] | None = None

    def stacked(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return row nodes and weights (b, h), column nodes and weights (b, w); copied to a device once."""
        if self._stacked is None or self._stacked[0].device != device:
            sides = [[tile[axis] for tile in self.tiles] for axis in (0, 1)]
            parts = [torch.stack(part) for side in sides for part in _before_and_weight(side)]
            self._stacked = tuple(part.to(device, non_blocking=True) for part in parts)
        return self._stacked


def _before_and_weight(side: Sequence[Positions]) -> tuple[list[Tensor], list[Tensor]]:
    return [p.before for p in side], [p.weight for p in side]


def apply_field(
    x: Float[Tensor, "b c h w"],
    field: Field,
    places: Places,
    affine: Affine = None,
    *,
    overwrite: bool = False,
    fuse: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Normalise the features of a batch of tiles, each with the field at its position.

    Args:
        x: features, planar or channels-last (others are copied), in any floating-point type.
        field: statistics of the layer.
        places: where the tiles lie on the field.
        affine: weight and bias per channel, applied after normalising.
        overwrite: the result may take the place of ``x`` (where that saves memory).
        fuse: on CUDA, use the compiled kernel where there is one.

    Returns:
        The result in the type of ``x``; the arithmetic is float32.
    """
    table = _Table.on(field, x.device, affine)
    if fuse and compiles(x.device):
        return compiled(gather_normalise)(
            x, table.mean, table.inv_std, table.shift, *places.stacked(x.device)
        )
    x, copied = dense(x)
    out = x if overwrite or copied else torch.empty_like(x)
    for tile, result, (rows, cols) in zip(x, out, places.tiles, strict=True):
        _normalise_tile(tile, result, table, rows, cols)
    return out


@dataclass(frozen=True)
class _Table:
    """A field's nodes where the features are; the layer's weight is part of 1/σ."""

    mean: Float[Tensor, "rows cols c"]
    inv_std: Float[Tensor, "rows cols c"]
    shift: Float[Tensor, " c"] | None

    @classmethod
    def on(cls, field: Field, device: torch.device, affine: Affine) -> _Table:
        mean, inv_std = (t.to(device, torch.float32) for t in (field.mean, field.inv_std))
        if affine is None:
            return cls(mean, inv_std, None)
        return cls(mean, inv_std * affine[0].float(), affine[1].float())


@dataclass(frozen=True)
class _Segment:
    """Columns between two neighbouring nodes, and weights of the second; None where all are 0."""

    cols: slice
    node: int
    weight: Float[Tensor, " n"] | None


def _segments(cols: Positions, device: torch.device) -> Iterator[_Segment]:
    nodes, counts = torch.unique_consecutive(cols.before, return_counts=True)
    start = 0
    for node, count in zip(nodes.tolist(), counts.tolist(), strict=True):
        weight = cols.weight[start : start + count]
        # without weights, as of nearest nodes, the columns of a segment are all alike
        yield _Segment(slice(start, start + count), node, weight.to(device) if weight.any() else None)
        start += count


def _lines(table: Float[Tensor, "r n c"], rows: Positions) -> Float[Tensor, "n c h"]:
    """Nodes interpolated along rows, for every feature row and node column."""
    before = rows.before.to(table.device)
    base = table[before]
    if rows.weight.any():
        after = table[(before + 1).clamp_(max=len(table) - 1)]
        # in place: base + weight · (after - base) with one copy of the nodes
        base = after.sub_(base).mul_(rows.weight.to(table.device)[:, None, None]).add_(base)
    return base.permute(1, 2, 0).contiguous()  # as features lie


def _normalise_tile(
    x: Float[Tensor, "c h w"], out: Float[Tensor, "c h w"], table: _Table, rows: Positions, cols: Positions
) -> None:
    """One tile, block by block; ``out`` may be ``x``."""
    # only the node columns that this tile sees
    first, last = int(cols.before.min()), int(cols.before.max()) + 2
    mean, inv_std = (_lines(t[:, first:last], rows) for t in (table.mean, table.inv_std))
    size = block_size(x)
    scratch = buffer_for(x, size)
    # other types are widened by blocks, never a whole layer
    work = None if x.dtype == torch.float32 else torch.empty_like(scratch)
    for segment in _segments(cols, x.device):
        centre, scale = (_Ramp.along(lines, segment, segment.node - first) for lines in (mean, inv_std))
        part, result = x[:, :, segment.cols], out[:, :, segment.cols]
        for c, y in blocks(part, size):
            source, target, field = part[c, y], result[c, y], shaped(scratch, part[c, y])
            values = target
            if work is not None:
                source = values = shaped(work, source).copy_(source)
            torch.sub(source, centre.evaluate(c, y, field), out=values)
            values.mul_(scale.evaluate(c, y, field))
            if table.shift is not None:
                values.add_(table.shift[c, None, None])
            if values is not target:
                target.copy_(values)


@dataclass(frozen=True)
class _Ramp:
    """One statistic between two node columns, linear along columns: base + step · weight."""

    base: Float[Tensor, "c h 1"]
    step: Float[Tensor, "c h 1"] | None
    weight: Float[Tensor, " w"] | None

    @classmethod
    def along(cls, lines: Float[Tensor, "n c h"], segment: _Segment, node: int) -> _Ramp:
        base = lines[node][:, :, None]
        if segment.weight is None:
            return cls(base, None, None)
        return cls(base, lines[node + 1][:, :, None] - base, segment.weight)

    def evaluate(self, c: slice, y: slice, out: Float[Tensor, "c h w"]) -> Float[Tensor, "c h _"]:
        """A block of channels and rows, in ``out`` unless it does not depend on the column."""
        if self.step is None or self.weight is None:
            return self.base[c, y]
        return torch.mul(self.step[c, y], self.weight, out=out).add_(self.base[c, y])


@no_type_check  # checks of shapes at run time would split what the compiler takes as one graph
def gather_normalise(
    x: Float[Tensor, "b c h w"],
    mean: Float[Tensor, "r n c"],
    inv_std: Float[Tensor, "r n c"],
    shift: Float[Tensor, " c"] | None,
    row: Int64[Tensor, "b h"],
    down: Float[Tensor, "b h"],
    col: Int64[Tensor, "b w"],
    right: Float[Tensor, "b w"],
) -> Float[Tensor, "b c h w"]:
    """Normalise in one expression, for the compiler; equal to `apply_field` within float32's rounding.

    Args:
        x: features.
        mean: nodes.
        inv_std: nodes.
        shift: added after normalising.
        row: node row before each feature row.
        down: weight of the next node row.
        col: node column before each feature column.
        right: weight of the next node column.
    """
    # the node after the last is the last itself: its weight is 0 there
    y, z = row[:, :, None], (row + 1).clamp(max=mean.shape[0] - 1)[:, :, None]
    u, v = col[:, None, :], (col + 1).clamp(max=mean.shape[1] - 1)[:, None, :]
    fields = []
    for table in (mean, inv_std):
        left = table[y, u] + (table[z, u] - table[y, u]) * down[:, :, None, None]
        far = table[y, v] + (table[z, v] - table[y, v]) * down[:, :, None, None]
        fields.append((left + (far - left) * right[:, None, :, None]).permute(0, 3, 1, 2))
    out = (x.float() - fields[0]) * fields[1]
    return (out if shift is None else out + shift[:, None, None]).to(x.dtype)
