"""Least-squares adversarial losses (Mao et al. 2017, eq. 2 with a = 0, b = c = 1), of CycleGAN and CUT.

    L_D = ½ (E[(D(real) − 1)²] + E[D(fake)²])        L_G = E[(D(fake) − 1)²]

E is the mean over images and over the places that a PatchGAN judges. CycleGAN (Zhu et al. 2017, section 4)
leaves out the generator's ½, so that the discriminator learns at half its pace. Both are 0 at their optimum;
a discriminator that cannot tell answers ½ everywhere and has L_D = L_G = ¼. Both are taken in float32, also
under autocast.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """L_D ≥ 0.

    Args:
        real: the discriminator's answers to real images, any shape, such as (b, 1, h, w).
        fake: its answers to generated images; detach the images, or the generator gets this gradient too.
    """
    return 0.5 * ((real.float() - 1).square().mean() + fake.float().square().mean())


def generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """L_G ≥ 0.

    Args:
        fake: the discriminator's answers to generated images, any shape, such as (b, 1, h, w).
    """
    return (fake.float() - 1).square().mean()
