"""Tables of statistics at nodes: fill those on background from the tissue beside them, average by a kernel.

The features of a blank patch are constant, so that its 1/σ is huge and its mean that of background.
Interpolated into tissue, that saturates or blackens a whole patch. So statistics carry a confidence, and
nodes take what they lack from their neighbours (normalised convolution, Knutsson and Westin 1993).

The kernel is that of KIN (Ho et al. 2022, "Kernelized instance normalization"): each node's mean and σ become
weighted averages over the nodes around it. Size 1 leaves the table as it is (IN); an infinite one averages
all nodes, which is close to the statistics of a thumbnail (TIN).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

KernelKind = Literal["constant", "gaussian"]

Table = Float[Tensor, "rows cols c"]

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
            # masked, not weighted by 0: that would turn an infinite σ into NaN
            largest = torch.maximum(largest, torch.where(known, _neighbour(std, dy, dx), 0))
            if dy == dx == 0:
                continue
            weight = weight * (_BINOMIAL[dy + 1] * _BINOMIAL[dx + 1])
            around += weight
            for total, table in zip(totals, (mean, std), strict=True):
                total += torch.where(known, _neighbour(table, dy, dx), 0) * weight
    # nodes of confidence 1 are left out, and so keep their bits
    mixed = (own < 1) & (around > 0)
    filled = [
        torch.where(own > 0, own * table, 0) + (1 - own) * (total / around)
        for table, total in zip((mean, std), totals, strict=True)
    ]
    centre = torch.where(mixed, filled[0], mean)
    std = torch.where(mixed, filled[1], std)
    floor = largest * FLOOR
    inverse = torch.where(mixed, 1 / std, inv_std)  # 1 / (1 / x) need not be x
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


GAUSSIAN_STD = 3.0
"""Standard deviation of the Gaussian kernel, nodes; the same for every size, as in the code of KIN."""


def kernel_weights(kind: KernelKind, size: int) -> list[float]:
    """Return the weights of a kernel along one axis, which sum to 1.

    The Gaussian is exp(-i²/(2·3²)), i nodes from the centre, cut off at the size and then normalised: with 3
    or 5 nodes it is nearly constant.

    Args:
        kind: "constant" or "gaussian".
        size: odd, in nodes.

    Raises:
        InvalidValueError: a size that is not odd and positive.
    """
    if size < 1 or size % 2 != 1:
        raise InvalidValueError(f"the size of a kernel must be odd (or infinite), got {size}")
    if kind == "constant":
        return [1 / size] * size
    weights = [math.exp(-0.5 * ((i - size // 2) / GAUSSIAN_STD) ** 2) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


def kernel_average(
    mean: Table, inv_std: Table, *, kind: KernelKind = "constant", size: float = 3
) -> tuple[Table, Table]:
    """Average mean and σ of a table's nodes with a kernel; beyond its edges, the table is replicated.

    Args:
        mean: float32 (rows, cols, channels), at the nodes. It may be a window of a taller table: rows
            nearer than ``size // 2`` to an end of the window are right only where that is the table's own.
        inv_std: 1/σ, likewise.
        kind: "constant" or "gaussian"; both the same where the size is infinite.
        size: odd number of nodes, or ``math.inf``.

    Returns:
        Averaged mean and 1/σ, of the same shape; for size 1 the very same.

    Determinism: nodes are added in a fixed order, so windows and whole tables agree bit for bit.

    Raises:
        InvalidValueError: a size that is neither odd nor infinite.
    """
    if size == 1:
        return mean, inv_std
    if math.isinf(size):
        # σ is averaged, not its inverse, which the smallest σ would decide
        averages = (t.mean(dim=(0, 1), dtype=torch.float64).float() for t in (mean, 1 / inv_std))
        centre, std = (a.expand_as(mean) for a in averages)
    else:
        weights = kernel_weights(kind, int(size) if size == int(size) else 0)
        centre, std = (_convolve(_convolve(t, weights, 0), weights, 1) for t in (mean, 1 / inv_std))
    return centre, 1 / std


def _convolve(table: Table, weights: list[float], axis: int) -> Table:
    count, reach = table.shape[axis], len(weights) // 2
    total = torch.zeros_like(table)
    for offset, weight in enumerate(weights):
        index = (torch.arange(count, device=table.device) + (offset - reach)).clamp_(0, count - 1)
        total += table.index_select(axis, index) * weight  # two kernels, which round alike for every width
    return total
