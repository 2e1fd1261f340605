"""Denoising score matching as in EDM (Karras et al. 2022, eq. 2 and table 1).

E[λ(σ) ‖D(x + σn; σ) − x‖²] with ln σ ~ N(P_mean, P_std²) and λ(σ) = (σ² + σ_data²) / (σ σ_data)², which makes
the loss 1 at every σ for F = 0. EDM2 (Karras et al. 2024, eq. 21) divides each
term by a learnt uncertainty exp(u) and adds u, so that no noise level dominates.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def loss_weight(sigma: Float[Tensor, " b"], sigma_data: float) -> Float[Tensor, " b"]:
    """Return λ(σ), the reciprocal of c_out²."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_loss(
    D_x: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b c h w"],
    sigma: Float[Tensor, " b"],
    sigma_data: float,
) -> Float[Tensor, " b"]:
    """Return λ(σ) times the mean squared error of each image.

    Args:
        D_x: denoised estimates.
        clean: the images without noise.
        sigma: noise level of each image.
        sigma_data: standard deviation of the images.
    """
    return loss_weight(sigma, sigma_data) * (D_x.float() - clean).square().mean(dim=(1, 2, 3))


def uncertainty_weighted(loss: Float[Tensor, " b"], u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return EDM2's weighted loss: loss / exp(u) + u, minimal at u = ln(loss)."""
    return loss / u.exp() + u


def draw_noise(
    seed: int,
    image_numbers: list[int],
    shape: tuple[int, int, int],
    *,
    P_mean: float,
    P_std: float,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b c h w"]]:
    """Draw noise levels and unit noise for training images.

    Args:
        seed: the run's seed.
        image_numbers: running number of each training image.
        shape: (c, h, w) of one image.
        P_mean: mean of ln σ.
        P_std: standard deviation of ln σ.
        device: where to draw.

    Returns:
        sigma (b,) and noise (b, c, h, w).

    Determinism:
        The draw of an image depends on (seed, image number, kind of device) alone: not on batches, processes
        or resumption.
    """
    generator = torch.Generator(device=device)
    sigmas, noises = [], []
    for number in image_numbers:
        # Odd multipliers spread neighbouring seeds and numbers over the generator's 63 bits.
        generator.manual_seed((seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 1) % 2**63)
        sigmas.append((P_mean + P_std * torch.randn((), generator=generator, device=device)).exp())
        noises.append(torch.randn(shape, generator=generator, device=device))
    return torch.stack(sigmas), torch.stack(noises)
