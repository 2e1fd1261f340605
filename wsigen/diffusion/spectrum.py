"""Preconditioning by octaves of wavelength: EDM's (Karras et al. 2022, eq. 7) for images of faint detail.

EDM takes an image for one signal of standard deviation σ_data. Tissue has most of its variance at long
wavelengths: at σ = 1 its finest octave is an order of magnitude weaker than σ_data, and F would have to
cancel what c_skip lets through to within a few percent. What it misses stays in the samples as grain.

Here an image is split into the octaves of a Laplacian pyramid (Burt & Adelson 1983), and each has
coefficients of its own. With σ_k the root mean square of octave k in clean images and n_k that of unit white
noise,

    c_skip,k = σ_k² / (σ_k² + n_k²σ²)          c_out,k = n_k σ σ_k / √(σ_k² + n_k²σ²)

so that F = 0 is the Wiener filter of images that are nothing but a spectrum, and the target of F has unit
variance in every octave. Without octaves, this is EDM's preconditioning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NOISE = (209 / 256) ** 0.5
"""Root mean square of the finest octave of unit white noise; each further octave has half of it.

1 - 2 · 9/64 + 100/1024: a pixel, less the bilinear mean of 2 × 2 means, 9/16 of which is its own.
"""

Octaves = list[Tensor]
"""Finest first, each half the height and width of the one before; the last one is what remains."""


def split(x: Float[Tensor, "b c h w"], octaves: int) -> Octaves:
    """Octaves of an image and what remains below them: their number + 1 tensors.

    Args:
        x: height and width are multiples of 2**octaves.
        octaves: how many.
    """
    parts = []
    for _ in range(octaves):
        reduced = F.avg_pool2d(x, 2)
        parts.append(x - _enlarge(reduced))
        x = reduced
    return [*parts, x]


def merge(parts: Octaves) -> Float[Tensor, "b c h w"]:
    """The image of ``split``."""
    x = parts[-1]
    for part in reversed(parts[:-1]):
        x = part + _enlarge(x)
    return x


def noise_std(octaves: int) -> tuple[float, ...]:
    """n_k: root mean squares of the parts of unit white noise, from ``split``."""
    return (*(NOISE * 0.5**k for k in range(octaves)), 0.5**octaves)


def image_std(images: Float[Tensor, "b c h w"], octaves: int) -> tuple[float, ...]:
    """σ_k: root mean squares of the parts of clean images."""
    return tuple(float(part.square().mean().sqrt()) for part in split(images, octaves))


def combine(
    x: Float[Tensor, "b c h w"],
    F_x: Float[Tensor, "b c h w"],
    sigma: Float[Tensor, " b"],
    std: Sequence[float],
) -> Float[Tensor, "b c h w"]:
    """D_x = Σ_k c_skip,k x_k + c_out,k F_k.

    Args:
        x: noisy images.
        F_x: what the network says.
        sigma: noise level of each image.
        std: σ_k, finest first, the last one of what remains below the octaves.
    """
    octaves = len(std) - 1
    level = sigma[:, None, None, None]
    parts = []
    for x_k, F_k, signal, n in zip(
        split(x, octaves), split(F_x, octaves), std, noise_std(octaves), strict=True
    ):
        noise = n * level
        total = noise.square() + signal**2
        parts.append(signal**2 / total * x_k + noise * signal * total.rsqrt() * F_k)
    return merge(parts)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
