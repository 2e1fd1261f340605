"""L-LSeSim (Zheng et al. 2021, section 3): LSGAN + λ times the spatially correlative loss.

The latter compares an image and its translation, on features of VGG16 with heads on them. The heads learn
which structures to tell apart from images of both domains, each with itself in other colours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsigen.config.stain import LSeSimConfig
from wsigen.stain.losses.adversarial import ImagePool, discriminator_loss, generator_loss
from wsigen.stain.losses.lsesim import SpatialCorrelation, photometric
from wsigen.stain.losses.vgg import VGG, load_vgg
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes, frozen
from wsigen.training.stain.method import Batch, Method, adam, make_discriminator, make_generator

_TARGET = 2**62  # other places and colours in target images than in source images of the same number


class LSeSim(Method):
    """Translation that keeps what resembles what.

    Args:
        config: the run.
        processes: of the run.

    Raises:
        SnapshotError: VGG's weights could not be loaded.
    """

    def __init__(self, config: LSeSimConfig, processes: Processes) -> None:
        super().__init__(processes)
        self.seed, self.loss = config.seed, config.loss
        self.vgg: VGG = load_vgg(self.loss.layers, weights=self.loss.vgg, device=processes.accelerator.device)
        self.generator = make_generator(config, config.seed, "xavier")
        self.discriminator = make_discriminator(config, config.seed + 1, "xavier")
        self.spatial = SpatialCorrelation(
            self.vgg.channels,
            learned=self.loss.learned,
            width=self.loss.width,
            places=self.loss.places,
            patch=self.loss.patch,
            tau=self.loss.tau,
            kind=self.loss.distance,
            strongest=self.loss.strongest,
        )
        self.pool = ImagePool(self.loss.pool, config.seed)
        self.memory = {"pool": self.pool}
        self.nets = nn.ModuleDict({"G": self.generator, "D": self.discriminator, "H": self.spatial})
        self.optimizers = {"G": adam(config, self.generator), "D": adam(config, self.discriminator)}
        if self.loss.learned:
            self.optimizers["H"] = adam(config, self.spatial)

    def compile(self) -> None:
        """Compile the networks."""
        for net in (self.generator, self.discriminator, self.vgg):
            net.compile(**self.processes.compile_options)

    def update(self, batch: Batch) -> Scalars:
        """The discriminator and the heads first, then the generator, on the same translations."""
        with self.processes.autocast():
            fake = self.generator(batch.source)
            wanted = self.vgg(batch.source)
            shown = self.past(self.pool, fake, batch.numbers).to(batch.target)
            real, made = self.discriminator(torch.cat([batch.target, shown])).chunk(2)
        losses = {"discriminator": discriminator_loss(real, made)}
        self.processes.apply(losses["discriminator"], self.optimizers["D"])
        if self.loss.learned:
            losses["contrast"] = self._train_heads(batch, wanted)
        with self.processes.autocast(), frozen(self.discriminator):
            gan = generator_loss(self.discriminator(fake))
            found = self.vgg(fake)
            spatial = self.spatial(found, wanted, seed=self.seed, image_numbers=batch.numbers)
        total = self.loss.lambda_gan * gan + self.loss.lambda_spatial * spatial
        self.processes.apply(total, self.optimizers["G"])
        reported = {"loss": total, "gan": gan, "spatial": spatial, **losses}
        return {name: value.detach() for name, value in reported.items()}

    def _train_heads(self, batch: Batch, source: list[Tensor]) -> Tensor:
        """One step of the heads: structures of both domains must be found again in other colours."""
        seeds = self.seed, self.seed ^ _TARGET
        with self.processes.autocast(), torch.no_grad():
            features = source, self.vgg(batch.target)
            recoloured = [
                self.vgg(
                    photometric(images, seed=seed, image_numbers=batch.numbers, strength=self.loss.strength)
                )
                for images, seed in zip((batch.source, batch.target), seeds, strict=True)
            ]
        # negatives of each domain are images of the other
        others = recoloured[::-1] if self.loss.other_negatives else (None, None)
        with self.processes.autocast():
            losses = [
                self.spatial.contrast(*maps, seed=seed, image_numbers=batch.numbers)
                for *maps, seed in zip(features, recoloured, others, seeds, strict=True)
            ]
        loss = torch.stack(losses).mean()
        self.processes.apply(loss, self.optimizers["H"])
        return loss
