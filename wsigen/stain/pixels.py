"""8-bit pixels and what networks take and give: values in [-1, 1], channels side by side in memory."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from wsigen.nn.images import to_unit


def to_network(pixels: UInt8[Tensor, "b h w 3"], dtype: torch.dtype) -> Float[Tensor, "b 3 h w"]:
    """x / 127.5 - 1, in the channels-last order that convolutions are fastest with.

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
    """(x + 1) · 127.5, or a mixture of that with the source; rounded, clamped.

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
