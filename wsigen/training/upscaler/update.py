"""One update of the upscaler and of its discriminator.

The guide of a training image comes from some of the upscaler's own stages before, drawn from the real image
reduced: at sampling it meets its own faults, and must mend them. Through these stages goes no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.config.upscaler import UpscalerTrainConfig
from wsigen.nn.discriminator import Discriminator
from wsigen.nn.upscaler import Upscaler
from wsigen.training.stain.method import Machine, Scalars, frozen
from wsigen.training.upscaler.losses import (
    discriminator_hinge,
    energy_difference,
    feature_difference,
    guide_error,
    relief_difference,
    turned,
    upscaler_hinge,
)


class UpscalerUpdate:
    """The two networks, their optimisers, and what an update does.

    Args:
        config: the run.
        net: the upscaler.
        machine: what it computes with.

    Attributes:
        nets: "G", the upscaler, and "D", the discriminator.
        optimizers: one for each.

    Determinism:
        Noise and the choice of how many own stages precede follow from (seed, image number) and
        (seed, update): not from batches, processes, or where a run was resumed.
    """

    def __init__(self, config: UpscalerTrainConfig, net: Upscaler, machine: Machine) -> None:
        self.config, self.loss, self.machine = config, config.loss, machine
        torch.manual_seed(config.seed + 1)
        self.G, self.D = net, Discriminator(**asdict(config.discriminator))
        self.nets = nn.ModuleDict({"G": self.G, "D": self.D})
        self.optimizers = {
            name: torch.optim.Adam(self.nets[name].parameters(), lr=lr, betas=config.optim.betas)
            for name, lr in config.optim.rates.items()
        }

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], mpp: Float[Tensor, " b"], numbers: Sequence[int], update: int
    ) -> Scalars:
        """Change the weights once: the discriminator's, then the upscaler's.

        Args:
            x: real images in [-1, 1].
            mpp: their µm/px.
            numbers: their running numbers.
            update: this one's number, from 0.

        Returns:
            Losses to report, detached; the upscaler's, "loss", first.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.config.seed, update], counter=2))
        depth, turns, flip = self._depth(x.shape[-1], rng), int(rng.integers(4)), bool(rng.integers(2))
        noise = _Noise(self.config.seed, numbers, x.device)
        y = self._guide(x, mpp, depth, noise, rng)
        z = self._z(noise, y)
        with self.machine.autocast():
            drawn = self.G(y, z, mpp)
        judged, features = self._train_discriminator(x, drawn.detach(), mpp, update)
        with self.machine.autocast(), frozen(self.D):
            seen = self.D(drawn, mpp)
        losses = {"adversarial": upscaler_hinge(seen.scores)}
        losses["guide"] = guide_error(drawn, y, self.G.k)
        losses["l1"] = (drawn - x).abs().mean()
        losses["energy"] = energy_difference(drawn, x)
        losses["relief"] = relief_difference(drawn, x)
        losses["features"] = feature_difference(seen.features, features)
        weights = {"guide": self.loss.guide, "energy": self.loss.energy, "relief": self.loss.relief}
        total = losses["adversarial"] + sum(weight * losses[name] for name, weight in weights.items())
        if depth == 0:
            total = total + self.loss.l1 * losses["l1"] + self.loss.features * losses["features"]
        if self.loss.symmetry and update % self.loss.symmetry_every == 0:
            total = total + self.loss.symmetry * self._symmetry(drawn, y, z, mpp, turns, flip)
        self.machine.apply(total, self.optimizers["G"])
        return {
            name: value.detach() for name, value in {"loss": total, "discriminator": judged, **losses}.items()
        }

    def _depth(self, size: int, rng: np.random.Generator) -> int:
        """How many own stages precede, of those that images of this size can be reduced for.

        More of them are likelier: the first stage from a real image is soon learnt, faults add up later.
        """
        fit = [d for d in range(self.loss.depth + 1) if size % self.config.least_size(d) == 0]
        shares = np.cumsum([d + 1 for d in fit])
        return fit[int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))]

    @torch.no_grad()
    def _guide(self, x: Tensor, mpp: Tensor, depth: int, noise: _Noise, rng: np.random.Generator) -> Tensor:
        y, k = F.avg_pool2d(x, self.G.k ** (depth + 1)), self.G.k
        with self.machine.autocast():
            for above in range(depth, 0, -1):
                # Each in a frame of its own: else a bias of direction adds up from stage to stage.
                dims = [dim for dim in (2, 3) if rng.random() < 0.5]
                y = self.G(y.flip(dims), self._z(noise, y), mpp * k**above).flip(dims).clamp(-1, 1)
        strength = self.loss.guide_noise * noise.uniform()[:, None, None, None]
        return y + strength * noise.normal(y.shape[1:])

    def _z(self, noise: _Noise, y: Tensor) -> Tensor:
        return noise.normal((self.G.noise_channels, *y.shape[2:]))

    def _train_discriminator(
        self, x: Tensor, drawn: Tensor, mpp: Tensor, update: int
    ) -> tuple[Tensor, list[Tensor]]:
        """One step: the discriminator's hinge loss, and what it saw of the real images before."""
        with self.machine.autocast():
            both = self.D(torch.cat([x, drawn.to(x)]), torch.cat([mpp, mpp]))
        real, fake = zip(*(s.chunk(2) for s in both.scores), strict=True)
        loss = judged = discriminator_hinge(real, fake)
        if self.loss.r1 and update % self.loss.r1_every == 0:
            loss = loss + self.loss.r1 / 2 * self.loss.r1_every * self._gradient_penalty(x, mpp)
        self.machine.apply(loss, self.optimizers["D"])
        return judged, [f.chunk(2)[0].detach() for f in both.features]

    def _gradient_penalty(self, x: Tensor, mpp: Tensor) -> Tensor:
        """R1: E ‖∇D(real)‖² (Mescheder et al. 2018), of the scores' means over places."""
        x = x.detach().requires_grad_(True)
        score = torch.stack([s.float().mean((1, 2, 3)).sum() for s in self.D(x, mpp).scores]).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def _symmetry(self, drawn: Tensor, y: Tensor, z: Tensor, mpp: Tensor, turns: int, flip: bool) -> Tensor:
        """|T G(y, z) - G(T y, T z)|: without it, nuclei end as relief lit from one side."""
        with self.machine.autocast():
            again = self.G(turned(y, turns, flip=flip), turned(z, turns, flip=flip), mpp)
        return (turned(drawn, turns, flip=flip) - again).abs().mean()


class _Noise:
    """Random numbers of a batch, each image's own stream keyed by (seed, number)."""

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._streams = [
            torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + n * 0xBF58476D1CE4E5B9 + 2) % 2**63)
            for n in numbers
        ]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Unit Gaussian, (b, *shape)."""
        drawn = torch.stack([torch.randn(tuple(shape), generator=g) for g in self._streams])
        return drawn.to(self._device, non_blocking=True)

    def uniform(self) -> Tensor:
        """In [0, 1), (b,)."""
        return torch.stack([torch.rand((), generator=g) for g in self._streams]).to(self._device)
