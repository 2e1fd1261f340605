"""What grid shifts are compared with: two other ways to sample an image from patches of it.

Written from the papers and as plain as they are: the whole canvas in memory, no wavefront.

* Overlap averaging (Bar-Tal et al. 2023, "MultiDiffusion", eq. 5): windows overlap, and every step sets the
  canvas to the mean of what the step makes of them.
* Mask-shift (Wang et al. 2023, DDNM, section 3.4 and figure 4): windows overlap and are sampled one after the
  other; where a window lies on finished ones, their pixels are imposed on its estimate at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wsigen.diffusion.guide import replicate
from wsigen.diffusion.solvers import Denoise
from wsigen.diffusion.step import guided, integrate
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.nn.images import to_unit
from wsigen.sampling.noise import Noise
from wsigen.sampling.spec import StageSpec


def windows(extent: int, patch: int, stride: int) -> list[Region]:
    """Overlapping squares that cover a canvas, row by row.

    Args:
        extent: side of the canvas.
        patch: side of a window.
        stride: from one to the next; the canvas ends where a window does.

    Raises:
        InvalidValueError: windows that leave a rest.
    """
    if not 0 < stride <= patch or (extent - patch) % stride or extent < patch:
        raise InvalidValueError(
            f"windows of {patch} px every {stride} px must end with the canvas, {extent} px, and leave no gap"
        )
    starts = range(0, extent - patch + 1, stride)
    return [Region(y, x, patch, patch) for y, x in product(starts, starts)]


class Counted:
    """An estimate that counts the patches it is asked for.

    Args:
        estimate: of patches.
    """

    def __init__(self, estimate: Denoise) -> None:
        self._estimate, self.evaluations = estimate, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """D(x; sigma)."""
        self.evaluations += len(x)
        return self._estimate(x, sigma)


def averaged(estimate: Denoise, patch: int, stride: int, *, batch_size: int = 8) -> Denoise:
    """The estimate of a canvas: the mean of the estimates of all windows that show a pixel.

    MultiDiffusion averages what a step makes of the windows. A step is linear in its estimates, so for first
    order and for multistep solvers the mean estimate gives the same; Heun's second estimate is taken where
    the mean of the first ones leads, instead of where each window's own does.

    Args:
        estimate: of patches.
        patch: side of a window.
        stride: from one to the next.
        batch_size: windows per call.
    """

    def estimate_canvas(x: Float[Tensor, "1 3 h w"], sigma: float) -> Float[Tensor, "1 3 h w"]:
        regions = windows(x.shape[-1], patch, stride)
        total, count = torch.zeros_like(x), x.new_zeros(x.shape[-2:])
        for i in range(0, len(regions), batch_size):
            some = regions[i : i + batch_size]
            denoised = estimate(torch.cat([part(x, r) for r in some]), sigma)
            for region, values in zip(some, denoised, strict=True):
                part(total, region)[0] += values
                count[region.y : region.y1, region.x : region.x1] += 1
        return total / count

    return estimate_canvas


@torch.inference_mode()
def overlap_average(
    estimate: Denoise,
    spec: StageSpec,
    guide: np.ndarray,
    stride: int,
    *,
    device: torch.device,
    batch_size: int = 8,
) -> np.ndarray:
    """A stage sampled with overlap averaging: uint8 (h, w, 3).

    Args:
        estimate: of patches.
        spec: of the stage; its grids do not count.
        guide: uint8, the stage above.
        stride: of the windows, a multiple of k.
        device: of the canvas.
        batch_size: windows per call.
    """
    y = _values(guide, device)
    whole = averaged(estimate, spec.patch.width, stride, batch_size=batch_size)
    x = integrate(whole, first_canvas(spec, y), spec.sigmas, spec.solver, guide=y, k=spec.k, relax=spec.relax)
    return _pixels(x)


@torch.inference_mode()
def mask_shift(
    estimate: Denoise, spec: StageSpec, guide: np.ndarray, stride: int, *, device: torch.device
) -> np.ndarray:
    """A stage sampled with mask-shift: uint8 (h, w, 3).

    Args:
        estimate: of patches.
        spec: of the stage; its grids do not count.
        guide: uint8, the stage above.
        stride: of the windows, a multiple of k.
        device: of the canvas.
    """
    y = _values(guide, device)
    start = first_canvas(spec, y)
    x, known = torch.zeros_like(start), torch.zeros(start.shape[-2:], dtype=torch.bool, device=device)
    for region in windows(spec.canvas.width, spec.patch.width, stride):
        beside = imposing(part(x, region), part(known, region))
        coarse = Region(*(n // spec.k for n in (region.y, region.x, region.height, region.width)))
        part(x, region)[:] = _solve(estimate, spec, part(start, region), part(y, coarse), beside)
        part(known, region)[:] = True
    return _pixels(x)


def imposing(values: Float[Tensor, "b 3 h w"], known: Bool[Tensor, "h w"]) -> Callable[[Denoise], Denoise]:
    """What puts known pixels into an estimate: A†y + (1 - A†A) D for the mask A of the known pixels.

    Args:
        values: whose known pixels are taken.
        known: which those are.
    """
    values, known = values.clone(), known.clone()

    def impose(estimate: Denoise) -> Denoise:
        return lambda x, sigma: torch.where(known, values, estimate(x, sigma))

    return impose


def first_canvas(spec: StageSpec, guide: Float[Tensor, "1 3 gh gw"]) -> Float[Tensor, "1 3 h w"]:
    """The canvas at the first noise level, of the same noise as `wsigen.sampling.stage` begins with."""
    noise = Noise(spec.seed, spec.stage).region(spec.canvas.region) * np.float32(spec.sigmas[0])
    x = torch.from_numpy(noise)[None].to(guide.device)
    return x + replicate(guide, spec.k) if spec.from_guide else x


def part(x: Float[Tensor, "b c h w"], region: Region) -> Float[Tensor, "b c _ _"]:
    """A view of a region."""
    return x[..., region.y : region.y1, region.x : region.x1]


def _solve(
    estimate: Denoise, spec: StageSpec, x: Tensor, guide: Tensor, beside: Callable[[Denoise], Denoise]
) -> Tensor:
    """One window. What is known comes last, so that the guide cannot change finished pixels."""
    x, history = x.clone(), None
    for i in range(spec.steps):
        enforced = guided(estimate, guide, spec.k) if i < spec.relax else estimate
        x, history = spec.solver.step(beside(enforced), x, spec.sigmas, i, history)
    return x


def _values(image: np.ndarray, device: torch.device) -> Float[Tensor, "1 3 h w"]:
    return to_unit(torch.from_numpy(image).to(device).permute(2, 0, 1)[None])


def _pixels(x: Float[Tensor, "1 3 h w"]) -> np.ndarray:
    return ((x[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
