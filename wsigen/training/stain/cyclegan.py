"""CycleGAN (Zhu et al. 2017, eq. 3): G makes target of source, F source of target, and each undoes the other.

    L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F) + λ λ_idt L_idt(G, F)

with the least-squares L_GAN. Both generators take one step, then both discriminators, which are shown
generated images of the past as well. With several processes the pool holds the images of all of them, as that
of a single process would.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsigen.config.stain import CycleGanConfig
from wsigen.stain.losses.adversarial import ImagePool, discriminator_loss, generator_loss, l1
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes, frozen
from wsigen.training.stain.method import Batch, Method, adam, make_discriminator, make_generator


class CycleGan(Method):
    """Cycle-consistent translation.

    Args:
        config: the run.
        processes: of the run.
    """

    def __init__(self, config: CycleGanConfig, processes: Processes) -> None:
        super().__init__(processes)
        self.loss, seed = config.loss, config.seed
        self.generator = self.G = make_generator(config, seed, "normal")
        self.F = make_generator(config, seed + 1, "normal")
        self.D_Y = make_discriminator(config, seed + 2, "normal")
        self.D_X = make_discriminator(config, seed + 3, "normal")
        self.nets = nn.ModuleDict({"G": self.G, "F": self.F, "D_Y": self.D_Y, "D_X": self.D_X})
        self.optimizers = {"G": adam(config, self.G, self.F), "D": adam(config, self.D_Y, self.D_X)}
        self.pool_Y, self.pool_X = ImagePool(self.loss.pool, seed), ImagePool(self.loss.pool, seed + 1)
        self.memory = {"pool_Y": self.pool_Y, "pool_X": self.pool_X}

    def update(self, batch: Batch) -> Scalars:
        """The generators first, then the discriminators, on the translations of before that."""
        x, y, numbers = batch
        with self.processes.autocast(), frozen(self.D_Y, self.D_X):
            (made_y, *same_y), (made_x, *same_x) = (
                self._translate(self.G, x, y),
                self._translate(self.F, y, x),
            )
            losses = {
                "gan": generator_loss(self.D_Y(made_y)),
                "gan_back": generator_loss(self.D_X(made_x)),
                "cycle": l1(self.F(made_y), x) + l1(self.G(made_x), y),
            }
            if self.loss.lambda_identity:
                losses["identity"] = l1(same_y[0], y) + l1(same_x[0], x)
        total = self._total(losses)
        self.processes.apply(total, self.optimizers["G"])
        with self.processes.autocast():
            losses["discriminator"] = self._judge(self.D_Y, y, self.past(self.pool_Y, made_y, numbers))
            losses["discriminator_back"] = self._judge(self.D_X, x, self.past(self.pool_X, made_x, numbers))
        self.processes.apply(losses["discriminator"] + losses["discriminator_back"], self.optimizers["D"])
        return {name: value.detach() for name, value in {"loss": total, **losses}.items()}

    def _translate(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The translation of ``x`` and, where identity counts, that of ``y``, which should stay as it is."""
        # one pass for both
        return net(torch.cat([x, y])).chunk(2) if self.loss.lambda_identity else (net(x),)

    def _judge(self, discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        return discriminator_loss(*discriminator(torch.cat([real, made.to(real)])).chunk(2))

    def _total(self, losses: Scalars) -> Tensor:
        total = losses["gan"] + losses["gan_back"] + self.loss.lambda_cycle * losses["cycle"]
        if "identity" in losses:
            total = total + self.loss.lambda_cycle * self.loss.lambda_identity * losses["identity"]
        return total
