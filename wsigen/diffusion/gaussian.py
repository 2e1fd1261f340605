"""The analytic denoiser of Gaussian data, whose trajectory has a closed form to test against."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GaussianDenoiser:
    """D(x; σ) = μ + (x - μ)·σd²/(σd² + σ²), the posterior mean when pixels are N(μ, σd²), independently.

    Its probability-flow ODE has the solution x(σ) - μ ∝ √(σd² + σ²). It is pointwise: no pixel depends on its
    neighbours.

    Args:
        sigma_data: σd, standard deviation of the data.
        mean: μ, the same for all pixels.
    """

    sigma_data: float = 0.5
    mean: float = 0.0

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], mpp: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the denoised estimate, whatever the pixel size."""
        shrink = self.sigma_data**2 / (self.sigma_data**2 + sigma.double().square())
        shrink = shrink.to(x.dtype).view(-1, 1, 1, 1)
        if self.mean == 0:
            return x * shrink
        return (x - self.mean).mul_(shrink).add_(self.mean)

    def solution(self, x: Tensor, sigma: float, sigma_end: float = 0.0) -> Tensor:
        """Return the exact solution at ``sigma_end`` of the ODE that passes through ``x`` at ``sigma``."""
        variance = self.sigma_data**2
        return self.mean + (x - self.mean) * ((variance + sigma_end**2) / (variance + sigma**2)) ** 0.5
