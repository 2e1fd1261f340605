"""Terms of the upscaler's loss, as functions of images.

The adversarial one is the hinge loss (Lim & Ye 2017): the discriminator minimises
E[max(0, 1 - D(real))] + E[max(0, 1 + D(drawn))], the upscaler -E[D(drawn)].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsigen.diffusion.spectrum import split

Scores = Sequence[Float[Tensor, "b 1 h w"]]

WINDOW = 16
"""Side of the squares, in pixels, over which local energy is taken."""
LEAST_ENERGY = 4e-4
"""Mean square below which detail is not seen: two and a half grey levels."""


def discriminator_hinge(real: Scores, drawn: Scores) -> Float[Tensor, ""]:
    """The discriminator's loss, summed over its heads: 2 a head where it cannot tell."""
    losses = [
        F.relu(1 - r.float()).mean() + F.relu(1 + d.float()).mean() for r, d in zip(real, drawn, strict=True)
    ]
    return torch.stack(losses).sum()


def upscaler_hinge(drawn: Scores) -> Float[Tensor, ""]:
    """The upscaler's adversarial loss, summed over the heads."""
    return -torch.stack([d.float().mean() for d in drawn]).sum()


def feature_difference(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean |f(drawn) - f(real)|, f the discriminator's features (feature matching, Wang et al. 2018)."""
    differences = [(d.float() - r.float()).abs().mean() for d, r in zip(drawn, real, strict=True)]
    return torch.stack(differences).mean()


def guide_error(x: Float[Tensor, "b c kh kw"], y: Float[Tensor, "b c h w"], k: int) -> Float[Tensor, ""]:
    """Mean |A x - y|, A the mean of k × k pixels: the relaxed constraint (Harb et al. 2024)."""
    return (F.avg_pool2d(x, k) - y).abs().mean()


def energy_difference(
    drawn: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], octaves: int = 2
) -> Float[Tensor, ""]:
    """Mean |ln e(drawn) - ln e(real)|, e the mean square of an octave over squares of `WINDOW` px.

    What a guide leaves open cannot be predicted, but how strong it is there can.

    Args:
        drawn: images; height and width are multiples of `WINDOW`.
        real: the images that their guides come from.
        octaves: how many, finest first.
    """
    differences = []
    pairs = zip(split(drawn, octaves), split(real, octaves), strict=True)
    for i, (d, r) in enumerate(list(pairs)[:octaves]):
        window = WINDOW >> i
        e_d, e_r = (
            (F.avg_pool2d(part.square(), window, window // 2) + LEAST_ENERGY).log() for part in (d, r)
        )
        differences.append((e_d - e_r).abs().mean())
    return torch.stack(differences).sum()


def relief_difference(
    drawn: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], octaves: int = 2
) -> Float[Tensor, ""]:
    """Mean |s(drawn) - s(real)|, s the skewness of the derivative of an image's lightness along a direction.

    Relief lit from one side has steep bright flanks on that side. A discriminator that sees one image at a
    time cannot forbid it, since some real images, turned at random, have a little of it.

    Args:
        drawn: images.
        real: the images that their guides come from.
        octaves: at how many scales, finest first.
    """
    differences = []
    d, r = drawn.mean(1, keepdim=True), real.mean(1, keepdim=True)
    for _ in range(octaves):
        differences.append((_skewness(d) - _skewness(r)).abs().mean())
        d, r = F.avg_pool2d(d, 2), F.avg_pool2d(r, 2)
    return torch.stack(differences).sum()


def _skewness(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4"]:
    """Of the differences of neighbours along rows, columns and both diagonals."""
    steps = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    moments = [(s.square().mean((1, 2, 3)), s.pow(3).mean((1, 2, 3))) for s in steps]
    return torch.stack([third / (second + LEAST_ENERGY) ** 1.5 for second, third in moments], dim=1)


def turned(x: Float[Tensor, "b c h w"], turns: int, *, flip: bool) -> Float[Tensor, "b c h w"]:
    """One of the eight symmetries of the square: mirrored or not, then quarter turns."""
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
