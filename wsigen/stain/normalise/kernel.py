"""Averaging tables of statistics with a kernel: KIN (Ho et al. 2022, "Kernelized instance normalization").

Each node's mean and σ become weighted averages over the nodes around it. Size 1 leaves the table as it is
(IN); an infinite one averages all nodes, which is close to the statistics of a thumbnail (TIN).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

KernelKind = Literal["constant", "gaussian"]
KERNEL_SIZES = (1, 3, 5, 7, 11, math.inf)

Table = Float[Tensor, "rows cols c"]


def kernel_weights(kind: KernelKind, size: int) -> list[float]:
    """Weights of a kernel along one axis; they sum to 1.

    The Gaussian's standard deviation is 0.3·((size - 1)/2 - 1) + 0.8 nodes (the paper gives none; this is the
    usual choice for a kernel of a given size).

    Args:
        kind: "constant" or "gaussian".
        size: odd, in nodes.

    Raises:
        InvalidValueError: an unknown kind, or a size that is not odd and positive.
    """
    if kind not in ("constant", "gaussian"):
        raise InvalidValueError(f"a kernel is constant or gaussian, got {kind!r}")
    if size < 1 or size % 2 != 1:
        raise InvalidValueError(f"the size of a kernel must be odd (or infinite), got {size}")
    if kind == "constant":
        return [1 / size] * size
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    weights = [math.exp(-0.5 * ((i - size // 2) / sigma) ** 2) for i in range(size)]
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
        InvalidValueError: an unknown kind, or a size that is neither odd nor infinite.
    """
    if size == 1:
        return mean, inv_std
    if math.isinf(size):
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
