"""Small generators with random weights for other tests."""

from __future__ import annotations

from typing import Any

from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.generator import Generator


def small_generator(
    family: str = "cut", width: int = 4, blocks: int = 2, seed: int = 0, **config: Any
) -> Generator:
    """Reproducible weights, evaluation mode, no gradients.

    Gain 1 instead of 0.02: colours differ clearly, and so do two seeds. ``blocks=9`` gives the published
    halo.
    """
    net = Generator(family=family, width=width, blocks=blocks, **config)
    return initialise(net, seed, gain=1.0).eval().requires_grad_(False)
