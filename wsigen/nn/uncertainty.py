"""The learnt log-variance u(σ, µm/px) of EDM2's loss weighting (Karras et al. 2024, section 2.1)."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.nn.denoiser import EMBEDDING_SCALE


class Uncertainty(nn.Module):
    """A linear map of sinusoids of ln σ and ln µm/px, 0 at the start. Used in training only.

    Args:
        channels: sinusoids for each of the two.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(2 * channels, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Float[Tensor, " b"], mpp: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Log-variance of the loss at each image's noise level and scale."""
        features = [get_timestep_embedding(EMBEDDING_SCALE * v.log(), self.channels) for v in (sigma, mpp)]
        return self.linear(torch.cat(features, dim=1)).squeeze(1)
