"""Pixels and network values: conversion, background, and the guide enlarged without a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from wsigen.arrays import part
from wsigen.errors import InvalidValueError
from wsigen.geometry import Colour, Region
from wsigen.nn.images import to_pixels_

_BRIGHT, _GREY, _ENOUGH = 215, 20, 0.01


def to_pixels(x: Float[Tensor, "..."], stage: int, mpp: float) -> UInt8[Tensor, "..."]:
    """Return values in [-1, 1] as pixels 0 to 255.

    Args:
        x: output of a network; overwritten.
        stage: of the cascade, for the message.
        mpp: µm/px, for the message.

    Raises:
        InvalidValueError: NaN or infinity in ``x``.
    """
    if not torch.isfinite(x).all():
        raise InvalidValueError(
            f"the network returned NaN or infinity in stage {stage} at {mpp:g} µm/px: weights are damaged, "
            "or bfloat16 overflowed; try --dtype float32, or another --model"
        )
    return to_pixels_(x)


def crop(pixels: UInt8[np.ndarray, "h w 3"], held: Region, region: Region) -> UInt8[np.ndarray, "gh gw 3"]:
    """Cut a region out of pixels; where it reaches outside them, repeat the nearest pixel.

    Args:
        pixels: of the region ``held``.
        held: where the pixels lie.
        region: what is wanted; overlaps ``held``.
    """
    inside = region.intersect(held)
    shown = part(pixels, held, inside)
    if inside == region:
        return shown
    rows = (inside.y - region.y, region.y1 - inside.y1)
    cols = (inside.x - region.x, region.x1 - inside.x1)
    return np.pad(shown, (rows, cols, (0, 0)), mode="edge")


def bilinear(pixels: UInt8[np.ndarray, "h2 w2 3"], k: int) -> UInt8[np.ndarray, "kh kw 3"]:
    """Enlarge pixels k times bilinearly, in integers, so that every machine gives the same result.

    Args:
        pixels: (h + 2, w + 2, 3): the pixels to be enlarged and one more on every side.
        k: factor.

    Returns:
        (k·h, k·w, 3).
    """
    # each pass multiplies by 2k, so that all values stay whole numbers
    wide = _along(_along(pixels.astype(np.int32), k).swapaxes(0, 1), k).swapaxes(0, 1)
    return np.rint(wide / (4 * k * k)).astype(np.uint8)


def _along(values: np.ndarray, k: int) -> np.ndarray:
    """Interpolate at the centres of k output rows per input row; returns 2k times the values."""
    above, own, below = values[:-2], values[1:-1], values[2:]
    out = np.empty((k * len(own), *values.shape[1:]), np.int32)
    for phase in range(k):
        # The centre of output row ``phase`` lies (2·phase + 1 - k)/2k input rows from the centre of its own.
        away = 2 * phase + 1 - k
        out[phase::k] = (2 * k - abs(away)) * own + abs(away) * (above if away < 0 else below)
    return out


def background_of(image: UInt8[np.ndarray, "h w 3"], default: Colour) -> Colour:
    """Return the background colour of a slide, estimated from its base image.

    It is the median of the background pixels, which are bright (every channel ≥ 215) and grey (channels
    within 20), if they make up at least 1 % of the image.

    Args:
        image: the base image z_0.
        default: the colour of the model's training slides, for images without background.
    """
    # pale eosin can be as bright as background, but it is pink
    empty = (image.min(axis=2) >= _BRIGHT) & (np.ptp(image, axis=2) <= _GREY)
    if empty.mean() < _ENOUGH:
        return default
    red, green, blue = np.median(image[empty], axis=0).round().astype(int).tolist()
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class SkipRule:
    """Decides which patches need no network: those whose guide, with a margin, shows background alone.

    A guide pixel is background if no channel differs by more than ``tolerance`` from the background colour. A
    skipped patch gets D = A†y.

    Args:
        tolerance: of 255. 0 skips only what has exactly the background colour.
        margin: guide pixels around a patch that must be background as well.

    Determinism: a function of the guide's pixels and the patch's position alone.
    """

    tolerance: int = 8
    margin: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 255 or self.margin < 0:
            raise InvalidValueError(
                "skip_tolerance must be between 0 and 255 and skip_margin at least 0, got "
                f"{self.tolerance} and {self.margin}"
            )

    def occupied(self, pixels: UInt8[np.ndarray, "h w 3"], background: Colour) -> Bool[np.ndarray, "h w"]:
        """Return which guide pixels are not background.

        Args:
            pixels: of the guide.
            background: colour of the empty slide.
        """
        # Bounds in uint8 rather than differences, which would need a wider type and more time.
        low = np.array([max(c - self.tolerance, 0) for c in background], np.uint8)
        high = np.array([min(c + self.tolerance, 255) for c in background], np.uint8)
        return np.asarray(((pixels < low) | (pixels > high)).any(axis=2))
