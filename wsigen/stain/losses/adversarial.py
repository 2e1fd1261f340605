"""Least-squares adversarial losses, and what CycleGAN adds: cycle consistency, identity, the image pool.

Mao et al. 2017, eq. 2 with a = 0, b = c = 1:

    L_D = ½ (E[(D(real) − 1)²] + E[D(fake)²])        L_G = E[(D(fake) − 1)²]

E is the mean over images and over the places that a PatchGAN judges. CycleGAN (Zhu et al. 2017, section 4)
leaves out the generator's ½, to slow the discriminator down; so does the code of CUT and LSeSim. Adam divides
by the size of the gradients, so that the ½ slows nothing down; the discriminator's learning rate does. Both
losses are 0 at their optimum; a discriminator that cannot tell answers ½ everywhere and has L_D = L_G = ¼
without the generator's ½. Both are computed in float32, also under autocast.

CycleGAN (eq. 2, sections 4 and 5.2): G makes target from source images, F source from target images:

    L_cyc = E‖F(G(x)) − x‖₁ + E‖G(F(y)) − y‖₁        L_idt = E‖G(y) − y‖₁ + E‖F(x) − x‖₁

The objective is LSGAN of both directions + λ L_cyc + ½λ L_idt with λ = 10. Norms are means over pixels and
channels. The discriminators see generated images from a pool of 50 past ones, not only the newest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError


def discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return L_D ≥ 0.

    Args:
        real: the discriminator's answers to real images, any shape, such as (b, 1, h, w).
        fake: its answers to generated images; detach the images, or the generator gets this gradient too.
    """
    return 0.5 * ((real.float() - 1).square().mean() + fake.float().square().mean())


def generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return L_G ≥ 0.

    Args:
        fake: the discriminator's answers to generated images, any shape, such as (b, 1, h, w).
    """
    return (fake.float() - 1).square().mean()


_STREAM = 0x504F4F4C  # keeps these draws apart from others of the same seed and image number


def l1(made: Float[Tensor, "b c h w"], wanted: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference, float32; one of the four terms above.

    Args:
        made: what the generators made.
        wanted: the image that it should be.
    """
    return (made.float() - wanted.float()).abs().mean()


class ImagePool:
    """Generated images of the past, for the discriminator (Shrivastava et al. 2017, section 2.3).

    While it fills, every image is kept and given back. Once full, an image is given back as it is with
    probability ½; otherwise it takes the place of a random one, which is given back instead.

    Args:
        size: images kept, 50 in CycleGAN; 0 for no pool: images are given back as they are.
        seed: the run's seed, ≥ 0.

    Raises:
        InvalidValueError: ``size`` is negative.

    Memory:
        ``size`` images as they were given: 157 MB for 50 of 512 px in float32.

    Determinism:
        What happens to an image depends on (seed, image number) and on what the pool holds; the latter is in
        ``state_dict``, so that a resumed run goes on exactly. With several processes each has its own pool.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        if size < 0:
            raise InvalidValueError(f"size of the image pool must be 0 or more (50 in CycleGAN), got {size}")
        self.size = size
        self.seed = seed
        self._images: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._images)

    def exchange(
        self, images: Float[Tensor, "b c h w"], image_numbers: Sequence[int]
    ) -> Float[Tensor, "b c h w"]:
        """Exchange new images for as many, new or old, without gradients.

        Args:
            images: from the generator.
            image_numbers: running number of each.
        """
        images = images.detach()
        if not self.size:
            return images
        return torch.stack([self._one(image, n) for image, n in zip(images, image_numbers, strict=True)])

    def _one(self, image: Tensor, number: int) -> Tensor:
        if len(self._images) < self.size:
            self._images.append(image.clone())  # a view would keep its whole batch alive
            return image
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, _STREAM]))
        if rng.random() < 0.5:
            return image
        place = int(rng.integers(self.size))
        old, self._images[place] = self._images[place], image.clone()
        return old.to(image)  # a checkpoint's images come from the CPU

    def state_dict(self) -> dict[str, Tensor]:
        """Return the images, (n, c, h, w), on the CPU, where those of a checkpoint are too."""
        return {"images": torch.stack([image.cpu() for image in self._images])} if self._images else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            InvalidValueError: there are more images than fit.
        """
        images = state.get("images")
        held = 0 if images is None else len(images)
        if held > self.size:
            raise InvalidValueError(
                f"the checkpoint's image pool holds {held} images, this run's only {self.size}; keep its size"
            )
        self._images = [] if images is None else [image.clone() for image in images]
