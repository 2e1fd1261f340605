"""Validation of the denoiser: its loss on held-out slides by noise level and µm/px, and sample pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
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

Denoise = Callable[..., Tensor]
Losses = dict[str, dict[str, float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Band:
    """Held-out patches of one range of µm/px."""

    name: str
    images: UInt8[Tensor, "n 3 h w"]
    mpp: Float[Tensor, " n"]
    classes: Int64[Tensor, " n"]


def held_out(
    index: SlideIndex, *, size: int, images: int, mpp_range: tuple[float, float], classes: Sequence[str] = ()
) -> list[Band]:
    """Draw ``images`` patches for each band of µm/px within ``mpp_range``, the same every time.

    Args:
        index: the validation slides.
        size: side of the patches, px.
        images: patches per band.
        mpp_range: smallest and largest µm/px trained on.
        classes: names of the classes that the denoiser is conditioned on, by their numbers.
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
        patches = PatchDataset(
            index, seed=2**31, mpp_range=(low, high), anywhere_fraction=0.0, augment=False, classes=classes
        )
        try:
            image, mpp, labels, _ = collate([patches[PatchKey(i, size)] for i in range(images)])
        except InvalidValueError as error:
            log.warning("no validation between %g and %g µm/px: %s", low, high, error)
            continue
        bands.append(Band(f"{low:g}-{high:g}", image, mpp, labels))
    return bands


@torch.inference_mode()
def validation_loss(
    denoise: Denoise,
    bands: list[Band],
    *,
    sigma_data: float,
    device: torch.device,
    batch: int = 16,
    classes: bool = False,
) -> Losses:
    """Return the EDM-weighted loss of each band at each of ``SIGMAS`` (1: nothing is known but σ_data).

    Args:
        denoise: (x, sigma, mpp) -> D_x; with ``classes``, (x, sigma, mpp, class_labels) -> D_x.
        bands: held-out patches.
        sigma_data: σ_data of the weighting.
        device: where to compute.
        batch: images at a time.
        classes: whether the denoiser is told the class of each patch.

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
            parts = (v.split(batch) for v in (clean, noise, band.mpp, band.classes))
            for x, n, mpp, labels in zip(*parts, strict=True):
                x, n, mpp = x.to(device), n.to(device), mpp.to(device)
                sigma, told = torch.full_like(mpp, level), (labels.to(device),) if classes else ()
                D_x = denoise(x + level * n, sigma, mpp, *told)
                losses.append(denoising_loss(D_x, x, sigma, sigma_data).cpu())
            table[band.name][f"{level:g}"] = round(float(torch.cat(losses).mean()), 5)
    return table


def mean_over(table: Losses) -> float:
    """Return the plain mean over bands and noise levels."""
    values = [v for row in table.values() for v in row.values()]
    return sum(values) / max(1, len(values))


@torch.inference_mode()
def samples(
    net: Denoiser,
    *,
    mpp: float,
    size: int,
    count: int,
    seed: int,
    steps: int = 18,
    class_labels: Int64[Tensor, " count"] | None = None,
) -> np.ndarray:
    """Draw unguided samples at one µm/px: uint8 (count, size, size, 3).

    Args:
        net: the denoiser.
        mpp: µm/px to ask for.
        size: side, px.
        count: how many.
        seed: of the noise.
        steps: Heun steps.
        class_labels: number of the class of each; None for none.
    """
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(steps)
    x = sigmas[0] * torch.randn(count, 3, size, size, generator=generator)
    labels = None if class_labels is None else class_labels.to(net.device)
    x = integrate(at_mpp(partial(net, class_labels=labels), mpp), x.to(net.device), sigmas, Heun())
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
    """Write a PNG with one row of samples per µm/px, the finest on top; of classes, a column for each.

    Args:
        net: the denoiser.
        path: the PNG.
        mpps: µm/px of the rows.
        size: side of a sample, px.
        seed: of the noise.
        columns: samples per row, if the denoiser has no classes.
        steps: Heun steps.
    """
    labels = torch.arange(len(net.classes)) if net.classes else None
    count = columns if labels is None else len(labels)
    rows = [
        np.concatenate(
            list(samples(net, mpp=mpp, size=size, count=count, seed=seed, steps=steps, class_labels=labels)),
            axis=1,
        )
        for mpp in mpps
    ]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
