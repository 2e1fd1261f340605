"""Pictures of what the model makes so far, at several µm/px."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import Heun
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.images import to_pixels


@torch.inference_mode()
def samples(net: Denoiser, *, mpp: float, size: int, count: int, seed: int, steps: int = 18) -> np.ndarray:
    """Unguided samples at one µm/px: uint8 (count, size, size, 3).

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
