"""Pixels, 0 to 255, and what networks see of them, [-1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(pixels: Tensor) -> Float[Tensor, "..."]:
    """Return pixels 0 to 255, of any type, as float32 in [-1, 1]: x / 127.5 - 1."""
    return to_unit_(pixels.to(torch.float32, copy=True))


def to_unit_(pixels: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Do the same in place, to floating-point pixels."""
    return pixels.div_(127.5).sub_(1)


def to_pixels(x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Return values in [-1, 1] as pixels, (x + 1) · 127.5 rounded and clamped."""
    return to_pixels_(x.to(torch.float32, copy=True))


def to_pixels_(x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Do the same, overwriting ``x``."""
    return x.add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
