"""Which statistics normalise a pixel of a slide: its patch's, those of patches around it, the whole slide's.

The kernel is that of KIN (Ho et al. 2022, "Kernelized instance normalization"): each node's mean and σ become
weighted averages over the nodes around it. Size 1 leaves the table as it is (IN); an infinite one averages
all nodes, which is close to the statistics of a thumbnail (TIN).

The statistics themselves are those of training: biased variance, and the layers' own ε = 1e-5 added to it.
The authors of KIN, TIN (URST) and dense normalisation take the unbiased variance, KIN no ε, and dense
normalisation adds 1e-7 to σ. A generator has learned on the former, and without an ε blank patches give NaN.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

NormKind = Literal["dn", "kin", "tin", "in"]

_TEXT = re.compile(r"(dn|kin|tin|in)(?:-(constant|gaussian))?(?:-(\d+|inf))?")


@dataclass(frozen=True)
class Norm:
    """How a slide is normalised.

    Args:
        kind: "dn" a field, linear between the patches' statistics (Ho et al. 2024); "kin" averages of the
            patches around, by patch (Ho et al. 2022); "tin" those of a thumbnail (Chen et al. 2022), its
            longer side 512 px; "in" those of each patch with its halo alone, which shows seams.
        kernel: "constant" or "gaussian", of "kin".
        size: of that kernel, patches, odd; or "inf" for the whole slide. 3 is what the authors of KIN use.
        granularity: "dn" interpolates once for so many feature pixels a side.

    Raises:
        InvalidValueError: a value out of range.
    """

    kind: NormKind = "dn"
    kernel: KernelKind = "constant"
    size: int | Literal["inf"] = 3
    granularity: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormKind):
            raise InvalidValueError(f"norm must be one of {', '.join(get_args(NormKind))}, got {self.kind!r}")
        if self.size != "inf":
            kernel_weights(self.kernel, self.size)
        if self.granularity < 1:
            raise InvalidValueError(f"granularity must be at least 1, got {self.granularity}")

    @classmethod
    def parse(cls, text: str) -> Norm:
        """Parse a name: in, tin, kin, kin-5, kin-gaussian-7, kin-inf, dn, or dn-8 (granularity 8).

        Raises:
            InvalidValueError: no such name.
        """
        match = _TEXT.fullmatch(text)
        kind, kernel, number = match.groups() if match else (None, None, None)
        extra = kernel is not None or number is not None
        plain = kind == "kin" or (kind == "dn" and not kernel and number != "inf") or not extra
        if match is None or not plain:
            raise InvalidValueError(
                f"norm must be such as in, tin, kin, kin-5, kin-gaussian-7, kin-inf, dn or dn-8, got {text!r}"
            )
        if kind == "dn":
            return cls("dn", granularity=int(number or 1))
        size = "inf" if number == "inf" else int(number or 3)
        return cls(kind, kernel or "constant", size)  # type: ignore[arg-type]

    @property
    def is_constant(self) -> bool:
        """Whether the whole slide has the same statistics, which must be known before it is translated."""
        return self.kind == "tin" or (self.kind == "kin" and self.size == "inf")

    @property
    def is_local(self) -> bool:
        """Whether statistics are measured at nodes, ahead of rendering."""
        return self.kind in ("dn", "kin") and not self.is_constant

    @property
    def reach(self) -> int:
        """Nodes to either side that a node's final statistics depend on: one by filling, more by a kernel."""
        return 1 + (int(self.size) // 2 if self.kind == "kin" and self.size != "inf" else 0)


KernelKind = Literal["constant", "gaussian"]

Table = Float[Tensor, "rows cols c"]

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
        InvalidValueError: an unknown kind, or a size that is not odd and positive.
    """
    if kind not in ("constant", "gaussian"):
        raise InvalidValueError(f"a kernel is constant or gaussian, got {kind!r}")
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
