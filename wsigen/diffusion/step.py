"""Guided denoising (Harb et al. 2024, Algorithm 1; by class, Ho & Salimans 2022), and whole trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from wsigen.diffusion.guide import project
from wsigen.diffusion.solvers import Denoise, Solver


@runtime_checkable
class DenoiserFunction(Protocol):
    """A denoiser D(x; sigma, mpp), as the sampler calls it."""

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], mpp: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the denoised estimate of images in [-1, 1], in float32."""
        ...


@runtime_checkable
class ClassDenoiserFunction(Protocol):
    """A denoiser D(x; sigma, mpp, class), of no class if ``class_labels`` is None."""

    def __call__(
        self,
        x: Float[Tensor, "b 3 h w"],
        sigma: Float[Tensor, " b"],
        mpp: Float[Tensor, " b"],
        class_labels: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the denoised estimate of images in [-1, 1], in float32."""
        ...


class OfClass:
    """A denoiser of one class: D_none + w (D_class - D_none), classifier-free guidance of weight w.

    Each estimate takes two network evaluations, one for w = 1.

    Args:
        denoiser: D(x; sigma, mpp, class).
        class_label: number of the class.
        guidance: w > 0; above 1, images are more typical of the class and vary less.
    """

    def __init__(self, denoiser: ClassDenoiserFunction, class_label: int, guidance: float = 1.0) -> None:
        self.denoiser, self.class_label, self.guidance = denoiser, class_label, guidance

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], mpp: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the denoised estimate of images in [-1, 1], in float32."""
        labels = torch.full_like(sigma, self.class_label, dtype=torch.int64)
        of_class = self.denoiser(x, sigma, mpp, labels)
        if self.guidance == 1:
            return of_class
        return self.denoiser(x, sigma, mpp).lerp_(of_class, self.guidance)


def at_mpp(denoiser: DenoiserFunction, mpp: float | Float[Tensor, " b"]) -> Denoise:
    """Return a denoiser's estimate at one pixel size, without guide.

    Args:
        denoiser: D(x; sigma, mpp).
        mpp: µm/px of the images, of all or of each.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        batch = x.new_empty(x.shape[0])
        return denoiser(x, torch.full_like(batch, sigma), batch.copy_(torch.as_tensor(mpp)))

    return denoise


def guided(denoise: Denoise, guide: Float[Tensor, "b 3 gh gw"], k: int) -> Denoise:
    """Return denoising whose result agrees with a guide: ū = u + A†(y - A u).

    Args:
        denoise: without guide.
        guide: y, k times smaller than the images.
        k: factor between the stages.
    """

    def denoise_guided(x: Tensor, sigma: float) -> Tensor:
        return project(denoise(x, sigma), guide, k)

    return denoise_guided


@torch.inference_mode()
def integrate(
    denoise: Denoise,
    x: Float[Tensor, "b 3 h w"],
    sigmas: Sequence[float],
    solver: Solver,
    *,
    guide: Float[Tensor, "b 3 gh gw"] | None = None,
    k: int = 2,
    relax: int = 0,
) -> Float[Tensor, "b 3 h w"]:
    """Solve the ODE from sigmas[0] to 0 for whole images, without tiles.

    Args:
        denoise: without guide, for instance `at_mpp` of a denoiser.
        x: images at noise level sigmas[0]; not overwritten.
        sigmas: the schedule, N + 1 levels, the last 0.
        solver: of the ODE.
        guide: y, enforced at steps i < ``relax``.
        k: factor between guide and images.
        relax: r, the first unguided step.
    """
    x, history = x.clone(), None
    for i in range(len(sigmas) - 1):
        enforced = guided(denoise, guide, k) if guide is not None and i < relax else denoise
        x, history = solver.step(enforced, x, sigmas, i, history)
    return x
