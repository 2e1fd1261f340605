"""What one pass over patches finds out about a layer."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LayerStats:
    """Statistics of one layer's input on n patches, each by itself.

    Args:
        mean: float32 (n, channels).
        inv_std: 1 / sqrt(biased variance + eps), float32 (n, channels).
    """

    mean: Float[Tensor, "n c"]
    inv_std: Float[Tensor, "n c"]


@dataclass(frozen=True)
class WhiteningStats(LayerStats):
    """Statistics of a whitening layer's input.

    Args:
        mean: float32 (n, channels).
        inv_std: 1 / sqrt(diagonal of the covariance + eps), float32 (n, channels).
        covariance: Σ, biased, without eps, float32 (n, channels, channels).
        whitening: (Σ + eps)^(-1/2), symmetric, likewise.
    """

    covariance: Float[Tensor, "n c c"]
    whitening: Float[Tensor, "n c c"]
