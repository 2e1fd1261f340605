"""Between what networks see and the pixels of a slide; and the guide, enlarged without a network."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region


def to_unit(values: Tensor) -> Float[Tensor, ...]:
    """Pixels 0 to 255 as values in [-1, 1]."""
    return values.to(torch.float32).div_(127.5).sub_(1)


def to_pixels(x: Float[Tensor, ...], stage: int, mpp: float) -> Tensor:
    """Values in [-1, 1] as pixels 0 to 255, uint8.

    Args:
        x: what a network returned; overwritten.
        stage: of the cascade, for the message.
        mpp: µm/px, for the message.

    Raises:
        InvalidValueError: values that are not numbers.
    """
    if not torch.isfinite(x).all():
        raise InvalidValueError(
            f"the model returned values that are not numbers, in stage {stage} at {mpp:g} µm/px; its weights "
            "are damaged, or its number format is too narrow: choose another --model, or --dtype float32"
        )
    return x.add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def crop(pixels: np.ndarray, held: Region, region: Region) -> np.ndarray:
    """A region of pixels of which a part is held; around that it goes on with the nearest pixel held.

    Args:
        pixels: uint8 (height, width, 3) of ``held``.
        held: where they lie.
        region: what is wanted; some of it is held.
    """
    inside = region.intersect(held)
    part = pixels[inside.y - held.y : inside.y1 - held.y, inside.x - held.x : inside.x1 - held.x]
    if inside == region:
        return part
    rows = (inside.y - region.y, region.y1 - inside.y1)
    cols = (inside.x - region.x, region.x1 - inside.x1)
    return np.pad(part, (rows, cols, (0, 0)), mode="edge")


def bilinear(pixels: np.ndarray, k: int) -> np.ndarray:
    """Pixels, bilinearly enlarged: uint8 (k·h, k·w, 3), in whole numbers, so the same on every machine.

    Args:
        pixels: uint8 (h + 2, w + 2, 3), the pixels to be enlarged with one more on every side.
        k: factor.
    """
    wide = _along(_along(pixels.astype(np.int32), k).swapaxes(0, 1), k).swapaxes(0, 1)
    return np.rint(wide / (4 * k * k)).astype(np.uint8)


def _along(values: np.ndarray, k: int) -> np.ndarray:
    """2k times the values between those of neighbouring rows, at the centres of k rows for each."""
    above, own, below = values[:-2], values[1:-1], values[2:]
    out = np.empty((k * len(own), *values.shape[1:]), np.int32)
    for phase in range(k):
        away = 2 * phase + 1 - k
        out[phase::k] = (2 * k - abs(away)) * own + abs(away) * (above if away < 0 else below)
    return out
