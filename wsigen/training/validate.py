"""Validation of the denoiser: its loss on held-out slides by noise level and µm/px, and sample pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey, collate
from wsigen.diffusion.loss import denoising_loss
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import Heun
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.errors import InvalidValueError
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.images import to_pixels, to_unit

SIGMAS = (0.05, 0.15, 0.4, 1.0, 3.0, 10.0, 40.0)
BAND_EDGES = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
Losses = dict[str, dict[str, float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Band:
    """Held-out patches of one range of µm/px."""

    name: str
    images: UInt8[Tensor, "n 3 h w"]
    mpp: Float[Tensor, " n"]


def held_out(index: SlideIndex, *, size: int, images: int, mpp_range: tuple[float, float]) -> list[Band]:
    """Draw ``images`` patches for each band of µm/px within ``mpp_range``, the same every time.

    Args:
        index: the validation slides.
        size: side of the patches, px.
        images: patches per band.
        mpp_range: smallest and largest µm/px trained on.
    """
    if not index.entries:
        log.warning("no slide is kept for validation; give more slides, or a table that names some")
        return []
    bands = []
    for low, high in pairwise(BAND_EDGES):
        low, high = max(low, mpp_range[0]), min(high, mpp_range[1])
        if low >= high:
            continue
        # a seed of its own: the same patches whatever the run's
        patches = PatchDataset(index, seed=2**31, mpp_range=(low, high), anywhere_fraction=0.0, augment=False)
        try:
            image, mpp, _ = collate([patches[PatchKey(i, size)] for i in range(images)])
        except InvalidValueError as error:
            log.warning("no validation between %g and %g µm/px: %s", low, high, error)
            continue
        bands.append(Band(f"{low:g}-{high:g}", image, mpp))
    return bands


@torch.inference_mode()
def validation_loss(
    denoise: Denoise, bands: list[Band], *, sigma_data: float, device: torch.device, batch: int = 16
) -> Losses:
    """Return the EDM-weighted loss of each band at each of ``SIGMAS`` (1: nothing is known but σ_data).

    Args:
        denoise: (x, sigma, mpp) -> D_x.
        bands: held-out patches.
        sigma_data: σ_data of the weighting.
        device: where to compute.
        batch: images at a time.

    Determinism:
        The noise is the same at every call.
    """
    table: Losses = {}
    for band in bands:
        # the same noise at all levels and calls, so that losses compare
        generator = torch.Generator().manual_seed(0)
        clean = to_unit(band.images)
        noise = torch.randn(clean.shape, generator=generator)
        table[band.name] = {}
        for level in SIGMAS:
            losses = []
            for x, n, mpp in zip(clean.split(batch), noise.split(batch), band.mpp.split(batch), strict=True):
                x, n, mpp = x.to(device), n.to(device), mpp.to(device)
                sigma = torch.full_like(mpp, level)
                D_x = denoise(x + level * n, sigma, mpp)
                losses.append(denoising_loss(D_x, x, sigma, sigma_data).cpu())
            table[band.name][f"{level:g}"] = round(float(torch.cat(losses).mean()), 5)
    return table


def mean_over(table: Losses) -> float:
    """Return the plain mean over bands and noise levels."""
    values = [v for row in table.values() for v in row.values()]
    return sum(values) / max(1, len(values))


@torch.inference_mode()
def samples(net: Denoiser, *, mpp: float, size: int, count: int, seed: int, steps: int = 18) -> np.ndarray:
    """Draw unguided samples at one µm/px: uint8 (count, size, size, 3).

    Args:
        net: the denoiser.
        mpp: µm/px to ask for.
        size: side, px.
        count: how many.
        seed: of the noise.
        steps: Heun steps.
    """
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(steps)
    x = sigmas[0] * torch.randn(count, 3, size, size, generator=generator)
    x = integrate(at_mpp(net, mpp), x.to(net.device), sigmas, Heun())
    return to_pixels(x).permute(0, 2, 3, 1).cpu().numpy()


def sample_sheet(
    net: Denoiser,
    path: Path,
    *,
    mpps: Sequence[float],
    size: int,
    seed: int,
    columns: int = 6,
    steps: int = 18,
) -> None:
    """Write a PNG with one row of samples per µm/px, the finest on top.

    Args:
        net: the denoiser.
        path: the PNG.
        mpps: µm/px of the rows.
        size: side of a sample, px.
        seed: of the noise.
        columns: samples per row.
        steps: Heun steps.
    """
    rows = [
        np.concatenate(list(samples(net, mpp=mpp, size=size, count=columns, seed=seed, steps=steps)), axis=1)
        for mpp in mpps
    ]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
