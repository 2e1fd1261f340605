"""Fields of normalisation statistics: a table of nodes, evaluated anywhere on the slide.

A layer normalises with (x - mean(y, x)) · inv_std(y, x), where mean and inv_std = 1/σ are continuous
functions of the position on the slide (Ho et al. 2024, "Every pixel has its moments", dense normalisation):
linear between the nodes of a table, constant beyond its outer ones. Patch-wise normalisation (IN, KIN) is the
same with the nearest node, and normalisation by a thumbnail (TIN) is a table of one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from wsigen.errors import InvalidValueError

Interpolation = Literal["linear", "nearest"]


@dataclass(frozen=True)
class Axis:
    """Positions of a table's nodes along one axis of the slide.

    Args:
        centres: image pixels, strictly increasing; need not be uniform.
        borders: image pixels where the nearest node changes, one between each two nodes. Empty for the
            midpoints; cells of unequal size need their own.

    Raises:
        InvalidValueError: no centres, not increasing, or borders that do not lie between them.
    """

    centres: tuple[float, ...]
    borders: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        pairs = list(zip(self.centres, self.centres[1:], strict=False))
        if not self.centres or any(b <= a for a, b in pairs):
            raise InvalidValueError(f"an axis needs increasing node centres, got {self.centres}")
        if not self.borders:
            # frozen, and follows from the centres
            object.__setattr__(self, "borders", tuple((a + b) / 2 for a, b in pairs))
        between = zip(self.centres, self.borders, self.centres[1:], strict=False)
        if len(self.borders) != len(pairs) or not all(a <= border <= b for a, border, b in between):
            raise InvalidValueError(
                f"an axis needs one border between each two centres, got {self.borders} for {self.centres}"
            )

    def linear(self, at: Float64[Tensor, " n"]) -> Positions:
        """Return the node before each position, and the weight of the node after it.

        Args:
            at: image pixels.

        Determinism: computed in float64, then rounded; a function of the position alone.
        """
        if len(self.centres) == 1:
            return Positions(torch.zeros(len(at), dtype=torch.int64), torch.zeros(len(at)))
        centres = torch.tensor(self.centres, dtype=torch.float64)
        # beyond the outer nodes: their pair, with a weight that is clamped to the nearer one
        before = (torch.searchsorted(centres, at, right=True) - 1).clamp_(0, len(centres) - 2)
        start = centres[before]
        weight = (at - start) / (centres[before + 1] - start)
        return Positions(before, weight.clamp_(0, 1).float())

    def nearest(self, at: Float64[Tensor, " n"]) -> Positions:
        """Return the node whose cell holds each position, with weights of 0."""
        borders = torch.tensor(self.borders, dtype=torch.float64)
        return Positions(torch.searchsorted(borders, at, right=True), torch.zeros(len(at)))


@dataclass(frozen=True)
class Positions:
    """Where the pixels of a feature map lie on an axis.

    Args:
        before: index of the node before each pixel, int64.
        weight: weight in [0, 1] of the node after it, float32.
    """

    before: Int64[Tensor, " n"]
    weight: Float[Tensor, " n"]


@dataclass(frozen=True)
class Field:
    """Statistics of one layer over the slide.

    Args:
        mean: float32 (rows, cols, channels), at the nodes. Best kept on the device of the network.
        inv_std: 1/σ, likewise.
        rows: positions of the nodes' rows.
        cols: positions of the nodes' columns.
        interpolation: "linear" (DN) or "nearest" (IN, KIN, TIN).
        granularity: linear values are computed once for every block of g × g feature pixels, at its centre
            (Ho et al. 2024, ablation); blocks lie on a grid from the slide's origin.

    Raises:
        InvalidValueError: shapes that do not fit together, or no granularity.
    """

    mean: Float[Tensor, "rows cols c"]
    inv_std: Float[Tensor, "rows cols c"]
    rows: Axis
    cols: Axis
    interpolation: Interpolation = "linear"
    granularity: int = 1

    def __post_init__(self) -> None:
        nodes = (len(self.rows.centres), len(self.cols.centres))
        if self.mean.shape != self.inv_std.shape or self.mean.ndim != 3 or self.mean.shape[:2] != nodes:
            raise InvalidValueError(
                f"a field on {nodes[0]} x {nodes[1]} nodes needs mean and inv_std of shape ({nodes[0]}, "
                f"{nodes[1]}, channels), got {tuple(self.mean.shape)} and {tuple(self.inv_std.shape)}"
            )
        if self.granularity < 1:
            raise InvalidValueError(f"granularity must be at least 1, got {self.granularity}")

    @property
    def channels(self) -> int:
        """Channels of the layer."""
        return self.mean.shape[2]

    def locate(self, axis: Axis, *, origin: int, scale: float, count: int) -> Positions:
        """Return where a feature map lies on one of the field's axes: pixel i at origin + (i + ½)·scale.

        Args:
            axis: ``rows`` or ``cols``.
            origin: image pixel of the slide at which the tile starts.
            scale: image pixels per feature pixel.
            count: feature pixels.
        """
        # of the slide, so that tiles cannot show
        index = torch.arange(count, dtype=torch.float64) + origin / scale
        if self.interpolation == "nearest":
            return axis.nearest((index + 0.5) * scale)
        block = torch.div(index, self.granularity, rounding_mode="floor") if self.granularity > 1 else index
        return axis.linear((block + 0.5) * (self.granularity * scale))


@dataclass(frozen=True)
class LayerStats:
    """Statistics of one layer's input on n patches, each by itself.

    Args:
        mean: float32 (n, channels).
        inv_std: 1/σ, float32 (n, channels); σ = sqrt(biased variance + eps), where nothing else was asked
            for.
    """

    mean: Float[Tensor, "n c"]
    inv_std: Float[Tensor, "n c"]
