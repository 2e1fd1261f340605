"""Slides for translators, and networks whose result can be said beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from wsigen.geometry import Region, Size
from wsigen.stain.engine.statistics import prepare_constant
from wsigen.stain.engine.stream import DENSE, Norm, StreamTranslator
from wsigen.stain.networks.generator import Generator

GLASS = (243, 243, 243)


class OneNorm(nn.Module):
    """0.25 · the normalised picture: its only parameters are the statistics."""

    halo, stride, min_size = 0, 4, 16

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return 0.25 * self.norm(x)


class Blur(nn.Module):
    """The mean over 5 × 5 pixels, edges reflected; no norm layers."""

    halo, stride, min_size = 4, 4, 16

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.mean = nn.ReflectionPad2d(2), nn.AvgPool2d(5, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(self.pad(x))


def generator(family: str = "cut", width: int = 4, blocks: int = 1, seed: int = 0) -> Generator:
    """A small generator with random weights."""
    torch.manual_seed(seed)
    return Generator(family=family, width=width, blocks=blocks).eval()


def texture(height: int, width: int | None = None, seed: int = 0) -> np.ndarray:
    """Fine and coarse grain whose colour and contrast change slowly: uint8 (height, width, 3)."""
    return _texture(height, width or height, seed).copy()


@lru_cache
def _texture(height: int, width: int, seed: int) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), (height, width)

    def noise(sigma: float, channels: int = 3) -> np.ndarray:
        smooth = gaussian_filter(rng.standard_normal((*shape, channels)), (sigma, sigma, 0))
        return smooth / max(smooth.std(), 1e-9)

    contrast = 1 + 0.7 * np.tanh(noise(70, 1))
    grain = contrast * (14 * noise(1.5) + 14 * noise(5)) + 30 * noise(70)
    return np.clip(np.array([195, 140, 175]) + grain, 0, 255).astype(np.uint8)


def translate(
    nets: Sequence[nn.Module],
    image: np.ndarray,
    *,
    chop: int | None = None,
    norm: Norm | None = DENSE,
    **options,
) -> list[np.ndarray]:
    """What comes out for each network; rows go in ``chop`` at a time."""
    size, constant = Size(*image.shape[:2]), None
    if norm is not None and norm.is_constant:
        shared = {name: options[name] for name in ("glass", "pitch") if name in options}
        constant = prepare_constant(nets, lambda r: crop(image, r), size, norm, **shared)
    stream = StreamTranslator(nets, size, norm=norm, constant=constant, **options)
    parts: list[list[np.ndarray]] = [[] for _ in nets]
    step = chop or len(image)
    for y in range(stream.first_source_row, len(image), step):
        for which, rows in stream.push(image[y : y + step]):
            parts[which].append(rows)
    empty = np.empty((0, *image.shape[1:]), np.uint8)
    return [np.concatenate([empty, *rows]) for rows in parts]


def crop(image: np.ndarray, region: Region) -> np.ndarray:
    """A region of a picture."""
    return image[region.y : region.y1, region.x : region.x1]
