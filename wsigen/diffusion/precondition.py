"""EDM preconditioning (Karras et al. 2022, eq. 7 and table 1).

The denoiser is D_x = c_skip(σ) x + c_out(σ) F_x(c_in(σ) x; c_noise(σ)): with these coefficients the input and
the training target of the network F have unit variance at every σ. `wsigen.diffusion.spectrum` has separate
coefficients for each octave of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """The four coefficients, each of the shape of ``sigma``."""

    c_skip: Float[Tensor, "..."]
    c_out: Float[Tensor, "..."]
    c_in: Float[Tensor, "..."]
    c_noise: Float[Tensor, "..."]


def precondition(sigma: Float[Tensor, "..."], sigma_data: float) -> Preconditioning:
    """Return the coefficients for noise of standard deviation ``sigma``.

    Args:
        sigma: noise levels > 0, in the unit of images in [-1, 1].
        sigma_data: standard deviation of the images, 0.5 by convention.
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return Preconditioning(
        c_skip=sigma_data**2 / total**2,
        c_out=sigma * sigma_data / total,
        c_in=1 / total,
        c_noise=sigma.log() / 4,
    )
