"""The interface of a method that trains a stainer, and the networks that methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wsigen.config.stain import StainTrainConfig
from wsigen.nn.network import Network
from wsigen.stain.losses.adversarial import ImagePool
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.discriminator import PatchDiscriminator
from wsigen.stain.networks.generator import Generator
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes
from wsigen.training.state import Part


class Batch(NamedTuple):
    """Unpaired images of both domains, in [-1, 1], and their running numbers."""

    source: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b 3 h w"]
    numbers: list[int]


class Method(ABC):
    """A method to train a generator.

    Args:
        processes: of the run.

    Attributes:
        nets: everything that is trained, by name.
        generator: of these, the one that is averaged and kept, saved as a snapshot.
        optimizers: by name, the one to report first; those of discriminators are "D".
        memory: what else the next update depends on, by name.
    """

    nets: nn.ModuleDict
    generator: Network
    optimizers: dict[str, torch.optim.Optimizer]
    memory: dict[str, Part]

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.memory = {}

    @abstractmethod
    def update(self, batch: Batch) -> Scalars:
        """Change the weights once; return the losses to report, detached, the generator's "loss" first."""

    def past(self, pool: ImagePool, made: Tensor, numbers: list[int]) -> Tensor:
        """Exchange generated images for some of the past, those of all processes in one pool.

        Args:
            pool: of the images, the same in all processes.
            made: generated images of this process, (b, 3, h, w).
            numbers: running number of each.

        Returns:
            As many, for this process, without gradients.
        """
        everyones = self.processes.gather(made.detach())
        return self.processes.share(pool.exchange(everyones, self.processes.gather_numbers(numbers)))

    def translator(self, net: nn.Module, target: UInt8[Tensor, "n 3 h w"]) -> nn.Module:
        """Return the network that translates pictures in validation, by default the generator.

        Args:
            net: the averaged generator.
            target: held-out pictures of the target.
        """
        del target
        return net

    def compile(self) -> None:
        """Compile the networks."""
        for net in self.nets.values():
            net.compile(**self.processes.compile_options)


def make_discriminator(config: StainTrainConfig, seed: int, kind: str) -> PatchDiscriminator:
    """Return an untrained discriminator.

    Args:
        config: the run.
        seed: of its weights.
        kind: of its weights; see ``initialise``.
    """
    d = config.discriminator
    return initialise(PatchDiscriminator(d.width, d.layers, antialias=d.antialias), seed, kind)


def make_generator(config: StainTrainConfig, seed: int, kind: str) -> Generator:
    """Return an untrained generator, whose configuration records what it is trained on.

    Args:
        config: the run.
        seed: of its weights.
        kind: of its weights; see ``initialise``.
    """
    g, (low, high) = config.generator, config.data.mpp_range
    net = Generator(
        family=g.family,
        width=g.width,
        blocks=g.blocks,
        affine=g.affine,
        dropout=g.dropout,
        marker=config.marker,
        mpp=low if low == high else None,
        mpp_range=(low, high),
        patch_size=config.data.patch_size,
    )
    return initialise(net, seed, kind)


def adam(config: StainTrainConfig, *nets: nn.Module) -> torch.optim.Adam:
    """Return the run's optimiser for the weights of some networks."""
    parameters: list[Any] = [p for net in nets for p in net.parameters()]
    return torch.optim.Adam(parameters, lr=config.optim.lr, betas=config.optim.betas)
