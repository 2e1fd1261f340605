"""Batches of regions on their way to networks and back: device, precision, batch size, 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from wsigen.geometry import Region
from wsigen.nn.images import to_unit

GPU_LOAD = 1 << 23
"""Pixels per network call that keep a GPU busy. A CPU is as busy with one tile as with several."""


@dataclass(frozen=True)
class Compute:
    """Device, precision and batch size of networks.

    Args:
        device: of weights, statistics and features.
        dtype: of weights and features.
        load: pixels per network call, at most, if that is more than one tile.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    load: int = GPU_LOAD

    def batch(self, area: int) -> int:
        """Return how many regions of ``area`` px make a network call; 1 on the CPU, to compute each alone."""
        return 1 if self.device.type == "cpu" else max(1, self.load // area)


ReadInto = Callable[[Region, np.ndarray], None]
"""Copies a region of the padded slide into uint8 (height, width, 3)."""


def gather(regions: Sequence[Region], read: ReadInto, device: torch.device) -> UInt8[Tensor, "b h w 3"]:
    """Read regions of one shape into a batch on the host, pinned where CUDA will copy it.

    Args:
        regions: of the slide.
        read: the slide.
        device: that is to fetch them.
    """
    shape = (len(regions), regions[0].height, regions[0].width, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for region, slot in zip(regions, pixels.numpy(), strict=True):
        read(region, slot)
    return pixels


def to_network(pixels: UInt8[Tensor, "b h w 3"], dtype: torch.dtype) -> Float[Tensor, "b 3 h w"]:
    """Return pixels in [-1, 1], in channels-last order, with which convolutions are fastest.

    Args:
        pixels: on the network's device.
        dtype: of the network.
    """
    return to_unit(rearrange(pixels, "b h w c -> b c h w")).to(dtype)


def to_pixels(
    values: Float[Tensor, "3 h w"],
    source: UInt8[Tensor, "h w 3"] | None = None,
    opacity: Float[Tensor, "h w"] | None = None,
) -> UInt8[Tensor, "h w 3"]:
    """Return pixels, (x + 1) · 127.5 rounded and clamped, blended with the source by opacity.

    Args:
        values: from the network, one tile.
        source: the pixels beneath it.
        opacity: in [0, 1]: 1 shows the network's pixel alone, 0 the source's.

    Determinism: kernels that multiply and add in one rounding are avoided, so that a pixel does not depend on
        where in a tile it lies.
    """
    pixels = rearrange(values, "c h w -> h w c").float() + 1
    pixels.mul_(127.5)
    if source is not None and opacity is not None:
        shown = opacity[:, :, None]
        pixels.mul_(shown).add_(source.float().mul_(1 - shown))
    return pixels.round_().clamp_(0, 255).to(torch.uint8).contiguous()
