"""Preconditioning by octaves of wavelength: that of EDM (Karras et al. 2022, eq. 7) for faint detail.

EDM treats an image as one signal of standard deviation σ_data. Tissue has most of its variance at long
wavelengths: its finest octave is an order of magnitude weaker than σ_data, so at σ = 1 F would have to cancel
the noise that c_skip passes to within a few percent. The error remains in the samples as grain.

Here an image is transformed to luminance and two colour differences, which are even fainter in stained
tissue, and each of the three is split into the octaves of a Laplacian pyramid (Burt & Adelson 1983) with
separate coefficients. With σ_k the root mean square of one of these parts in clean images and n_k that of
unit white noise,

    c_skip,k = σ_k² / (σ_k² + n_k²σ²)          c_out,k = n_k σ σ_k / √(σ_k² + n_k²σ²)

so that F = 0 is the Wiener filter for the images' spectrum, and the target of F has unit variance in every
part. With equal σ_k this is EDM's preconditioning. σ_k depends on the pixel size: it may be a table over
µm/px, interpolated linearly in ln µm/px.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NOISE = (209 / 256) ** 0.5
"""Root mean square of the finest octave of unit white noise; each coarser octave has half of it.

Its square is 1 - 2 · 9/64 + 100/1024: a pixel minus the bilinear interpolation of 2 × 2 means, in which its
own mean has the weight 9/16.
"""

Octaves = list[Tensor]
"""Finest first, each half the height and width of the previous one; the last is the residual."""


def to_opponent(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return (r + g + b)/√3, (r - b)/√2, (r - 2g + b)/√6: a rotation, so white noise stays white."""
    red, green, blue = x.unbind(1)
    sides = red + blue
    return torch.stack([(sides + green) / 3**0.5, (red - blue) / 2**0.5, (sides - 2 * green) / 6**0.5], 1)


def to_rgb(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return the inverse of ``to_opponent``."""
    # the rotation's transpose
    light, across, green = x[:, 0] / 3**0.5, x[:, 1] / 2**0.5, x[:, 2] / 6**0.5
    return torch.stack([light + across + green, light - 2 * green, light - across + green], 1)


def split(x: Float[Tensor, "b c h w"], octaves: int) -> Octaves:
    """Split an image into octaves and the residual: ``octaves`` + 1 tensors.

    Args:
        x: height and width are multiples of 2**octaves.
        octaves: number of octaves.
    """
    parts = []
    for _ in range(octaves):
        reduced = F.avg_pool2d(x, 2)
        parts.append(x - enlarged(reduced, 2))
        x = reduced
    return [*parts, x]


def merge(parts: Octaves) -> Float[Tensor, "b c h w"]:
    """Return the image that ``split`` took apart."""
    x = parts[-1]
    for part in reversed(parts[:-1]):
        x = part + enlarged(x, 2)
    return x


def noise_std(octaves: int) -> tuple[float, ...]:
    """Return n_k, the root mean squares of the parts of unit white noise."""
    return (*(NOISE * 0.5**k for k in range(octaves)), 0.5**octaves)


def image_std(images: Float[Tensor, "b 3 h w"], octaves: int) -> Float[Tensor, "parts 3"]:
    """Return σ_k, the root mean squares of the parts of clean images.

    Returns:
        Rows: octaves, finest first, and the residual; columns: luminance and two colour differences.
    """
    parts = split(to_opponent(images), octaves)
    return torch.stack([part.square().mean(dim=(0, 2, 3)).sqrt() for part in parts])


def std_at(
    mpp: Float[Tensor, " b"], nodes: Float[Tensor, " nodes"], table: Float[Tensor, "nodes parts 3"]
) -> Float[Tensor, "b parts 3"]:
    """Interpolate σ_k at each image's µm/px: linear in ln µm/px between the nodes, constant beyond.

    Args:
        mpp: µm/px of each image.
        nodes: µm/px of the table's entries, increasing.
        table: σ_k at each node, as from ``image_std``.
    """
    if len(nodes) == 1:
        return table.expand(len(mpp), -1, -1)
    place, grid = mpp.log().clamp(nodes[0].log(), nodes[-1].log()), nodes.log()
    right = torch.searchsorted(grid, place).clamp(1, len(grid) - 1)  # a pair of nodes at the ends too
    share = (place - grid[right - 1]) / (grid[right] - grid[right - 1])
    return table[right - 1].lerp(table[right], share[:, None, None])


def combine(
    x: Float[Tensor, "b 3 h w"],
    F_x: Float[Tensor, "b 3 h w"],
    sigma: Float[Tensor, " b"],
    std: Float[Tensor, "*b parts 3"],
) -> Float[Tensor, "b 3 h w"]:
    """Return D_x = Σ_k c_skip,k x_k + c_out,k F_k.

    Args:
        x: noisy images, RGB.
        F_x: output of the network: luminance and two colour differences.
        sigma: noise level of each image.
        std: σ_k, as from ``image_std``, one for all images or one each.
    """
    octaves = std.shape[-2] - 1
    level, signals = sigma[:, None, None, None], std[..., None, None].unbind(-4)
    parts = []
    for x_k, F_k, signal, n in zip(
        split(to_opponent(x), octaves), split(F_x, octaves), signals, noise_std(octaves), strict=True
    ):
        # Karras et al. 2022, table 1, by octave: σ_k for σ_data and n_k σ for σ
        noise = n * level
        total = noise.square() + signal.square()
        parts.append(signal.square() / total * x_k + noise * signal * total.rsqrt() * F_k)
    return to_rgb(merge(parts))


def enlarged(y: Float[Tensor, "b c h w"], k: int) -> Float[Tensor, "b c kh kw"]:
    """Enlarge bilinearly like ``F.interpolate``, whose last bits depend on the number of threads.

    Args:
        y: images.
        k: factor.
    """
    # Neighbouring rows, the edge repeated, mixed at the centres of the k new rows; then the same for columns.
    for axis in (2, 3):
        last = y.shape[axis] - 1
        above = torch.cat([y.narrow(axis, 0, 1), y.narrow(axis, 0, last)], dim=axis)
        below = torch.cat([y.narrow(axis, 1, last), y.narrow(axis, last, 1)], dim=axis)
        away = [(2 * phase + 1 - k) / (2 * k) for phase in range(k)]
        rows = [(1 - abs(a)) * y + abs(a) * (above if a < 0 else below) for a in away]
        y = torch.stack(rows, dim=axis + 1).flatten(axis, axis + 1)
    return y
