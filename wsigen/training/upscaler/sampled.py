"""Guides that a denoiser sampled: what the upscaler's first stage meets where whole slides are sampled."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import Heun
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.files import atomic_path
from wsigen.nn.denoiser import Denoiser, load_denoiser

STEPS, SIGMA_MIN = 20, 0.1
"""Of the samples: those of the preset one-step."""
BATCH = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampledGuides:
    """Images that a denoiser sampled, at µm/px spread evenly in the logarithm.

    Args:
        images: in [-1, 1], (n, 3, s, s).
        mpp: their µm/px, ascending, (n,).
    """

    images: Float[Tensor, "n 3 s s"]
    mpp: Float[Tensor, " n"]

    def fits(self, mpp: Float[Tensor, " b"], size: int) -> bool:
        """Whether there are guides of these µm/px and this size."""
        low, high = float(self.mpp[0]), float(self.mpp[-1])
        near = 1.02  # the µm/px next to the ends of the range
        return size <= self.images.shape[-1] and bool(
            (mpp >= low / near).all() and (mpp <= high * near).all()
        )

    def draw(
        self, mpp: Float[Tensor, " b"], size: int, rng: np.random.Generator, among: int = 48
    ) -> Float[Tensor, "b 3 size size"]:
        """Return a part of a sample for each µm/px, of one of the ``among`` samples next to it.

        Args:
            mpp: of the guides.
            size: their side, px.
            rng: chooses samples, parts, and one of the eight symmetries of the square.
            among: number of samples that are taken for those of a µm/px.
        """
        last = len(self.mpp) - min(among, len(self.mpp))
        chosen = []
        for value in mpp.cpu():
            middle = int(torch.searchsorted(self.mpp, value)) - among // 2
            at = min(max(middle, 0), last) + int(rng.integers(min(among, len(self.mpp))))
            y, x = rng.integers(self.images.shape[-1] - size + 1, size=2)
            part = self.images[at, :, y : y + size, x : x + size]
            part = part.flip(2) if rng.random() < 0.5 else part
            chosen.append(torch.rot90(part, int(rng.integers(4)), (1, 2)))
        return torch.stack(chosen).to(mpp.device)


def load_or_sample(
    path: Path, model: str, *, count: int, size: int, mpp_range: tuple[float, float], seed: int
) -> SampledGuides:
    """Return the guides in a file, or sample and save them.

    Args:
        path: of the file.
        model: the denoiser: "default", a snapshot folder or a hub id.
        count: number of images.
        size: their side, px.
        mpp_range: of their µm/px; limited to those that the denoiser was trained at.
        seed: of the noise.

    Raises:
        SnapshotError: the denoiser cannot be loaded.
        OutputError: the disk refuses.
    """
    if not path.is_file():
        log.info("sampling %d guides of %d px with the denoiser of %s", count, size, model)
        guides = sample(load_denoiser(model), count=count, size=size, mpp_range=mpp_range, seed=seed)
        with atomic_path(path) as temporary:
            torch.save({"images": guides.images.half(), "mpp": guides.mpp}, temporary)
    found = torch.load(path, map_location="cpu", weights_only=True)
    return SampledGuides(found["images"].float(), found["mpp"])


@torch.no_grad()
def sample(
    net: Denoiser, *, count: int, size: int, mpp_range: tuple[float, float], seed: int
) -> SampledGuides:
    """Sample guides; arguments as for `load_or_sample`."""
    low, high = net.config["mpp_range"]
    low, high = max(low, mpp_range[0]), min(high, mpp_range[1])
    mpp = torch.logspace(math.log10(low), math.log10(high), count)
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(STEPS, sigma_min=SIGMA_MIN)
    images = []
    for values in mpp.split(BATCH):
        x = sigmas[0] * torch.randn(len(values), 3, size, size, generator=generator)

        each = integrate(at_mpp(net, values), x.to(net.device), sigmas, Heun())
        images.append(each.clamp(-1, 1).cpu())
    return SampledGuides(torch.cat(images), mpp)
