"""Fill the statistics of nodes on background, which mean nothing, from the tissue beside them.

The features of a blank patch are constant, so that its 1/σ is huge and its mean that of background.
Interpolated into tissue, that saturates or blackens a whole patch. So statistics carry a confidence, and
nodes take what they lack from their neighbours (normalised convolution, Knutsson and Westin 1993).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.stain.normalise.norm import Table

FLOOR = 1 / 20
"""Least σ of a node, relative to the largest among its neighbours."""

_BINOMIAL = (1.0, 2.0, 1.0)


def fill_nodes(mean: Table, inv_std: Table, confidence: Float[Tensor, "rows cols"]) -> tuple[Table, Table]:
    """Mix each node with its eight neighbours by its confidence, and keep its σ from vanishing.

    value = w·own + (1 - w)·average, for mean and σ, where w is the node's confidence and the average is that
    of the neighbours, weighted by 1 2 1 ⊗ 1 2 1 and their confidence. Where no neighbour has any, the node
    stays as it is. Then σ is raised to at least 1/20 of the largest σ that the node or a neighbour with
    confidence has measured.

    Args:
        mean: float32 (rows, cols, channels), at the nodes. It may be a window of a taller table: its first
            and last rows are right only where they are the table's own.
        inv_std: 1/σ, likewise.
        confidence: float32 in [0, 1]; 0 for background.

    Returns:
        Mean and 1/σ of the same shape; a node of confidence 1 among nodes of like σ keeps its bits.

    Determinism: row r depends on rows r - 1, r, r + 1 alone, bit for bit.
    """
    std = 1 / inv_std
    own = confidence[:, :, None].to(mean)
    around = torch.zeros_like(own)
    totals = [torch.zeros_like(mean), torch.zeros_like(mean)]
    largest = torch.zeros_like(mean)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            weight = _neighbour(own, dy, dx)
            known = weight > 0
            largest = torch.maximum(largest, torch.where(known, _neighbour(std, dy, dx), 0))
            if dy == dx == 0:
                continue
            weight = weight * (_BINOMIAL[dy + 1] * _BINOMIAL[dx + 1])
            around += weight
            for total, table in zip(totals, (mean, std), strict=True):
                total += torch.where(known, _neighbour(table, dy, dx), 0) * weight
    mixed = (own < 1) & (around > 0)
    filled = [
        torch.where(own > 0, own * table, 0) + (1 - own) * (total / around)
        for table, total in zip((mean, std), totals, strict=True)
    ]
    centre = torch.where(mixed, filled[0], mean)
    std = torch.where(mixed, filled[1], std)
    floor = largest * FLOOR
    inverse = torch.where(mixed, 1 / std, inv_std)
    return centre, torch.where(std < floor, 1 / floor, inverse)


def _neighbour(table: Float[Tensor, "rows cols _"], dy: int, dx: int) -> Float[Tensor, "rows cols _"]:
    """The table moved so that each node meets its neighbour at (dy, dx); 0 beyond the edges."""
    rows, cols = table.shape[:2]
    moved = torch.zeros_like(table)
    to_y, from_y = _overlap(rows, dy)
    to_x, from_x = _overlap(cols, dx)
    moved[to_y, to_x] = table[from_y, from_x]
    return moved


def _overlap(count: int, step: int) -> tuple[slice, slice]:
    return slice(max(0, -step), count - max(0, step)), slice(max(0, step), count - max(0, -step))
