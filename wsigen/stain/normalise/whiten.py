"""Whitening: instance normalisation that also removes the correlation of channels.

x -> Σ^(-1/2)·(x - μ) with the symmetric root (ZCA), as in the whitening and colouring transforms of style
transfer (Li et al. 2017). For a slide in tiles, μ and Σ come from a thumbnail (TIW: Chen et al. 2022, URST).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.stain.normalise.slot import present_pass
from wsigen.stain.normalise.stats import WhiteningStats


class InstanceWhitening(nn.Module):
    """Whitens each image of a batch by itself, or with statistics from outside where `NormLayers` gives them.

    Args:
        num_features: channels.
        eps: added to the eigenvalues of the covariance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """As the present pass says, or each image with its own statistics where there is none."""
        present = present_pass()
        return self.apply_stats(x, self.measure(x)) if present is None else present(self, x)

    def measure(self, x: Float[Tensor, "b c h w"]) -> WhiteningStats:
        """Mean and biased covariance of each image, accumulated in float32."""
        flat = x.flatten(2).float()
        mean = flat.mean(dim=2)
        centred = flat - mean[:, :, None]
        covariance = centred @ centred.mT / flat.shape[2]
        inv_std = (covariance.diagonal(dim1=1, dim2=2) + self.eps).rsqrt()
        return WhiteningStats(mean, inv_std, covariance, inverse_root(covariance, self.eps))

    def apply_stats(self, x: Float[Tensor, "b c h w"], stats: WhiteningStats) -> Float[Tensor, "b c h w"]:
        """Whiten each image with its own statistics, or all with the same.

        Args:
            x: features.
            stats: of as many images, or of one.
        """
        centred = x.flatten(2).float() - stats.mean.to(x.device)[:, :, None]
        return (stats.whitening.to(x.device) @ centred).view(x.shape).to(x.dtype)


def inverse_root(covariance: Float[Tensor, "n c c"], eps: float) -> Float[Tensor, "n c c"]:
    """(Σ + eps)^(-1/2), symmetric; by eigendecomposition in float64.

    Args:
        covariance: symmetric, positive semidefinite.
        eps: added to the eigenvalues; negative ones, from rounding, count as 0.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    scale = (values.clamp(min=0) + eps).rsqrt()
    return ((vectors * scale[:, None, :]) @ vectors.mT).float()
