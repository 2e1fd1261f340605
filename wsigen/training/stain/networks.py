"""Untrained networks of a run, and the optimiser that all methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wsigen.config.stain import StainTrainConfig
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.discriminator import PatchDiscriminator
from wsigen.stain.networks.generator import Generator


def make_discriminator(config: StainTrainConfig, seed: int, kind: str) -> PatchDiscriminator:
    """An untrained discriminator.

    Args:
        config: the run.
        seed: of its weights.
        kind: of its weights; see ``initialise``.
    """
    d = config.discriminator
    return initialise(PatchDiscriminator(d.width, d.layers, antialias=d.antialias), seed, kind)


def make_generator(config: StainTrainConfig, seed: int, kind: str) -> Generator:
    """An untrained generator, with what it will have been trained on in its configuration.

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
    """The run's optimiser for the weights of some networks."""
    parameters: list[Any] = [p for net in nets for p in net.parameters()]
    return torch.optim.Adam(parameters, lr=config.optim.lr, betas=config.optim.betas)
