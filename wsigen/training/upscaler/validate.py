"""What the upscaler makes of held-out slides: one stage as numbers and pictures, whole chains as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from wsigen.diffusion.spectrum import image_std
from wsigen.nn.discriminator import Discriminator
from wsigen.nn.images import to_pixels, to_unit
from wsigen.nn.upscaler import Upscaler
from wsigen.slide.nuclei import COARSEST_MPP, find_nuclei
from wsigen.slide.stains import stain_densities
from wsigen.training.validate import Band

OCTAVES = 3
SHEET_COLUMNS = 6
PANE = 384
"""Side of a picture in the sheet of chains, px."""


@torch.inference_mode()
def draw_stage(
    net: Upscaler, guide: Float[Tensor, "b 3 h w"], mpp: Float[Tensor, " b"], seed: int, batch: int = 8
) -> Float[Tensor, "b 3 kh kw"]:
    """The next stage of some guides, on the network's device, with the same noise every time.

    Args:
        net: the upscaler.
        guide: in [-1, 1].
        mpp: µm/px of the result.
        seed: of the noise.
        batch: images at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((len(guide), net.noise_channels, *guide.shape[2:]), generator=generator)
    device = net.device
    drawn = [
        net(y.to(device), n.to(device), m.to(device)).float().clamp(-1, 1)
        for y, n, m in zip(guide.split(batch), z.split(batch), mpp.split(batch), strict=True)
    ]
    return torch.cat(drawn)


@torch.inference_mode()
def stage_statistics(
    net: Upscaler, judge: Discriminator, bands: list[Band], batch: int = 8
) -> dict[str, dict[str, Any]]:
    """One stage from real guides, beside the real images, for each band of µm/px.

    Args:
        net: the upscaler.
        judge: its discriminator.
        bands: held-out patches.
        batch: images at a time.

    Returns:
        By band: ``power``, of each octave's luminance over that of the real images, finest first;
        ``haematoxylin``, mean density over real; ``margin``, the discriminator's mean score of real images
        less that of drawn ones; and at µm/px where nuclei can be counted ``nuclei``, how many over real.
    """
    table: dict[str, dict[str, Any]] = {}
    for i, band in enumerate(bands):
        real = to_unit(band.images)
        drawn = draw_stage(net, F.avg_pool2d(real, net.k), band.mpp, i, batch).cpu()
        power = image_std(drawn, OCTAVES)[:-1, 0] / image_std(real, OCTAVES)[:-1, 0]
        ours, theirs = pixels(drawn), pixels(real)
        row: dict[str, Any] = {
            "power": [round(float(v) ** 2, 3) for v in power],
            "haematoxylin": round(_haematoxylin(ours) / max(_haematoxylin(theirs), 1e-6), 3),
            "margin": round(
                _score(judge, real, band.mpp, net.device, batch)
                - _score(judge, drawn, band.mpp, net.device, batch),
                3,
            ),
        }
        fine = band.mpp <= COARSEST_MPP
        if bool(fine.all()):
            row["nuclei"] = round(_nuclei(ours, band.mpp) / max(_nuclei(theirs, band.mpp), 1.0), 3)
        table[band.name] = row
    return table


def _score(judge: Discriminator, x: Tensor, mpp: Tensor, device: torch.device, batch: int) -> float:
    scores = [
        # weighted, since the last batch may be smaller
        torch.stack([s.float().mean() for s in judge(a.to(device), m.to(device)).scores]).sum() * len(a)
        for a, m in zip(x.split(batch), mpp.split(batch), strict=True)
    ]
    return float(torch.stack(scores).sum()) / len(x)


def _haematoxylin(images: UInt8[np.ndarray, "n h w 3"]) -> float:
    return float(stain_densities(images)[..., 0].mean())


def _nuclei(images: UInt8[np.ndarray, "n h w 3"], mpp: Tensor) -> float:
    return sum(find_nuclei(image, float(m)).count for image, m in zip(images, mpp, strict=True))


def pixels(x: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Images in [-1, 1] as 8-bit pixels."""
    values = to_pixels(x).cpu()
    return rearrange(values, "b c h w -> b h w c").contiguous().numpy()


def stage_sheet(net: Upscaler, bands: list[Band], path: Path) -> None:
    """Write a PNG with three rows for each band: guides enlarged, what is drawn from them, real images."""
    rows = []
    for i, band in enumerate(bands):
        real = to_unit(band.images[:SHEET_COLUMNS])
        guide = F.avg_pool2d(real, net.k)
        drawn = draw_stage(net, guide, band.mpp[:SHEET_COLUMNS], i).cpu()
        wide = F.interpolate(guide, scale_factor=net.k, mode="nearest")
        # one below the other, to compare
        rows += [np.concatenate(list(pixels(x)), axis=1) for x in (wide, drawn, real)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def chain(
    net: Upscaler, overview: Float[Tensor, "1 3 h w"], mpp: float, finest: float, seed: int
) -> Float[Tensor, "1 3 kh kw"]:
    """Stage after stage from an overview, as long as the result is no finer than ``finest`` µm/px.

    Args:
        net: the upscaler.
        overview: in [-1, 1].
        mpp: its µm/px.
        finest: µm/px to stop at.
        seed: of the noise.
    """
    stage = 0
    while mpp / net.k >= 0.99 * finest:  # a hundredth off is rounding
        mpp, stage = mpp / net.k, stage + 1
        turn = (2, 3) if stage % 2 else ()  # as slides are sampled
        overview = (
            draw_stage(net, overview.flip(turn), torch.tensor([mpp]), seed + 1000 * stage).flip(turn).cpu()
        )
    return overview


def chain_sheet(
    net: Upscaler, overviews: UInt8[Tensor, "n 3 h w"], mpp: float, finest: float, path: Path
) -> None:
    """Write a PNG with a row for each overview: itself, what is made of it reduced, and two parts of that."""
    rows = []
    for i, image in enumerate(overviews):
        first = to_unit(image[None])
        result = chain(net, first, mpp, finest, i)
        side, pane = result.shape[-1], min(PANE, result.shape[-1])
        whole = F.interpolate(result, (PANE, PANE), mode="area")
        parts = [
            F.interpolate(result[..., at : at + pane, at : at + pane], (PANE, PANE), mode="nearest")
            for at in ((side - pane) // 2, (side - pane) // 4)
        ]
        panes = [F.interpolate(first, (PANE, PANE), mode="nearest"), whole, *parts]
        rows.append(np.concatenate([pixels(p)[0] for p in panes], axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
