"""CUT and FastCUT (Park et al. 2020, eq. 5):

    L_GAN(G, D, X, Y) + λ_X L_PatchNCE(G, H, X) + λ_Y L_PatchNCE(G, H, Y)

with the least-squares L_GAN. The generator's features of its input, the keys, are taken on the way to its
output, so that an update costs one pass through the generator and one through its encoder for each image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wsigen.config.stain import CutConfig, FastCutConfig
from wsigen.stain.losses.adversarial import discriminator_loss, generator_loss
from wsigen.stain.losses.cut import PatchNCE
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.generator import Generator
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes, frozen
from wsigen.training.stain.method import Batch, Method, adam, make_discriminator, make_generator

_FLIP = 0x464C4950  # keeps these draws apart from others of the same seed and image number
_IDENTITY = 2**62  # the same for the places in target images


class Cut(Method):
    """Contrastive unpaired translation.

    Args:
        config: the run.
        processes: of the run.
    """

    def __init__(self, config: CutConfig | FastCutConfig, processes: Processes) -> None:
        super().__init__(processes)
        self.seed, self.loss = config.seed, config.loss
        self.generator = make_generator(config, config.seed, "xavier")
        self.discriminator = make_discriminator(config, config.seed + 1, "xavier")
        self.nce = initialise(
            PatchNCE(
                feature_channels(self.generator, self.loss.layers),
                width=self.loss.heads,
                places=self.loss.places,
                tau=self.loss.tau,
                all_negatives=self.loss.all_negatives,
            ),
            config.seed + 2,
        )
        self.nets = nn.ModuleDict({"G": self.generator, "D": self.discriminator, "H": self.nce})
        self.optimizers = {
            "G": adam(config, self.generator, self.nce),
            "D": adam(config, self.discriminator),
        }
        self.features = self.generator.features
        self.output = len(self.generator.model) - 1

    def compile(self) -> None:
        """Compile the networks."""
        options = self.processes.compile_options
        self.discriminator.compile(**options)
        self.features = torch.compile(self.features, **options)

    def update(self, batch: Batch) -> Scalars:
        """The discriminator first, then generator and heads, on the same translations."""
        with self.processes.autocast():
            out, keys, flipped = self._translate(batch)
        fake = out[: len(batch.source)]  # translations of the target are no fakes
        with self.processes.autocast():
            # detached: its own update must not reach the generator
            real, made = self.discriminator(torch.cat([batch.target, fake.detach()])).chunk(2)
        loss_D = discriminator_loss(real, made)
        self.processes.apply(loss_D, self.optimizers["D"])
        with self.processes.autocast(), frozen(self.discriminator):
            losses = {"gan": generator_loss(self.discriminator(fake))}
            queries = _flip(self.features(out, self.loss.layers), flipped)
            losses |= self._contrast(batch.numbers, queries, keys)
        total = self._total(losses)
        self.processes.apply(total, self.optimizers["G"])
        reported = {"loss": total, **losses, "discriminator": loss_D}
        return {name: value.detach() for name, value in reported.items()}

    def _translate(self, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Translations of source (and target) images, features of these images, and which were flipped."""
        # one pass: identity translates the target as well
        x = torch.cat([batch.source, batch.target]) if self.loss.lambda_identity else batch.source
        flipped = self._draw_flips(batch, x)
        (looked_at,) = _flip([x], flipped)
        *keys, out = self.features(looked_at, (*self.loss.layers, self.output))
        if flipped is not None:  # the keys are those of the image as it was
            with torch.no_grad():
                keys = self.features(x, self.loss.layers)
        return out, keys, flipped

    def _draw_flips(self, batch: Batch, x: Tensor) -> Tensor | None:
        """Which images to flip, bool (b, 1, 1, 1); None for none of them."""
        if not self.loss.flip_equivariance:
            return None
        drawn = [
            np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, _FLIP])).random()
            < 0.5
            for number in batch.numbers
        ]
        if not any(drawn):
            return None
        flips = torch.tensor(drawn).repeat(len(x) // len(drawn))
        return flips[:, None, None, None].to(x.device, non_blocking=True)

    def _contrast(self, numbers: list[int], queries: list[Tensor], keys: list[Tensor]) -> Scalars:
        losses: Scalars = {}
        b = len(numbers)
        for name, part, seed in (
            ("nce", slice(b), self.seed),
            ("nce_identity", slice(b, 2 * b), self.seed ^ _IDENTITY),
        ):
            if len(queries[0][part]):  # the second half is empty without identity
                q, k = [f[part] for f in queries], [f[part] for f in keys]
                losses[name] = self.nce(q, k, seed=seed, image_numbers=numbers)
        return losses

    def _total(self, losses: Scalars) -> Tensor:
        total = self.loss.lambda_gan * losses["gan"] + self.loss.lambda_nce * losses["nce"]
        if "nce_identity" in losses:
            total = total + self.loss.lambda_identity * losses["nce_identity"]
        return total


def feature_channels(generator: Generator, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of a generator's features after some of its layers.

    Raises:
        InvalidValueError: it has no such layers.
    """
    with torch.no_grad():
        return tuple(f.shape[1] for f in generator.features(torch.zeros(1, 3, 32, 32), layers))


def _flip(maps: list[Tensor], flipped: Tensor | None) -> list[Tensor]:
    return maps if flipped is None else [torch.where(flipped, m.flip(3), m) for m in maps]
