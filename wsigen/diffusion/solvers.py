"""Solvers of the probability-flow ODE dx/dσ = (x - D(x; σ))/σ (Karras et al. 2022, eq. 3, with σ(t) = t).

All solvers have one interface: a step takes a patch from noise level sigmas[i] to sigmas[i + 1], and may pass
one value per pixel and channel (its *history*) to the next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

Denoise = Callable[[Tensor, float], Tensor]
"""Denoising of a batch at one noise level, guided or not: ``(x, sigma) -> D_x``."""


@runtime_checkable
class Solver(Protocol):
    """A solver that keeps at most one image between steps."""

    @property
    def needs_history(self) -> bool:
        """Whether steps after the first need the history that the previous step returned."""
        ...

    def evaluations(self, steps: int) -> int:
        """Return the network evaluations per patch in a schedule of ``steps`` steps."""
        ...

    def step(
        self,
        denoise: Denoise,
        x: Float[Tensor, "b c h w"],
        sigmas: Sequence[float],
        i: int,
        history: Float[Tensor, "b c h w"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
        """Take ``x`` from sigmas[i] to sigmas[i + 1].

        Args:
            denoise: gives the (guided) denoised estimate.
            x: images at noise level sigmas[i]. May be overwritten.
            sigmas: the schedule, N + 1 levels, the last 0.
            i: the step, from 0 to N - 1.
            history: that the previous step returned; unused at i = 0.

        Returns:
            The images at sigmas[i + 1], and the history for the next step (None if not needed).
        """
        ...


class Euler:
    """First order, one evaluation per step: x' = D + (σ'/σ)(x - D)."""

    needs_history = False

    def evaluations(self, steps: int) -> int:
        """Return one per step."""
        return steps

    def step(
        self,
        denoise: Denoise,
        x: Float[Tensor, "b c h w"],
        sigmas: Sequence[float],
        i: int,
        history: Float[Tensor, "b c h w"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], None]:
        """See `Solver.step`."""
        ratio = sigmas[i + 1] / sigmas[i]
        denoised = denoise(x, sigmas[i])
        if ratio == 0:
            return denoised, None
        return x.mul_(ratio).add_(denoised, alpha=1 - ratio), None


class Heun:
    """Second order, two evaluations per step, one in the last (Karras et al. 2022, Algorithm 1, no churn).

    d = (x - D(x; σ))/σ, x' = x + (σ' - σ) d; then, where σ' > 0, d' = (x' - D(x'; σ'))/σ' and
    x' = x + (σ' - σ)(d + d')/2. The second evaluation is guided like the first (Harb et al. 2024).
    """

    needs_history = False

    def evaluations(self, steps: int) -> int:
        """Return two per step, one in the last: 79 for 40 steps."""
        return 2 * steps - 1

    def step(
        self,
        denoise: Denoise,
        x: Float[Tensor, "b c h w"],
        sigmas: Sequence[float],
        i: int,
        history: Float[Tensor, "b c h w"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], None]:
        """See `Solver.step`."""
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            return denoised, None
        d = (x - denoised).div_(sigma)
        predicted = x.add(d, alpha=sigma_next - sigma)
        d_next = predicted.sub(denoise(predicted, sigma_next)).div_(sigma_next)
        return x.add_(d.add_(d_next), alpha=(sigma_next - sigma) / 2), None


class DPMSolverPP2M:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), second order with one evaluation per step.

    With t = -ln σ, h = t' - t and r = (t - t_before)/h:
    x' = (σ'/σ) x + (1 - σ'/σ) [(1 + 1/2r) D - 1/2r D_before]. The first step and the last one, to σ' = 0, are
    of first order; at σ' = 0 that means x' = D. The history is D, as guided.
    """

    needs_history = True

    def evaluations(self, steps: int) -> int:
        """Return one per step."""
        return steps

    def step(
        self,
        denoise: Denoise,
        x: Float[Tensor, "b c h w"],
        sigmas: Sequence[float],
        i: int,
        history: Float[Tensor, "b c h w"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """See `Solver.step`."""
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised, denoised
        ratio = sigmas[i + 1] / sigmas[i]
        if i == 0:
            return x.mul_(ratio).add_(denoised, alpha=1 - ratio), denoised
        assert history is not None, "steps after the first need a history"
        # 1/2r: how far the linear extrapolation in ln σ reaches, from the last two estimates to the step's
        # middle.
        half_inverse_r = math.log(sigmas[i] / sigmas[i + 1]) / math.log(sigmas[i - 1] / sigmas[i]) / 2
        x = x.mul_(ratio).add_(denoised, alpha=(1 - ratio) * (1 + half_inverse_r))
        return x.add_(history, alpha=-(1 - ratio) * half_inverse_r), denoised


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {"heun": Heun(), "euler": Euler(), "dpmpp_2m": DPMSolverPP2M()}
)
"""Solvers by their names in presets."""


def solver_by_name(name: str) -> Solver:
    """Return the solver of a name.

    Raises:
        InvalidValueError: unknown name.
    """
    if name not in SOLVERS:
        raise InvalidValueError(f"solver must be one of {', '.join(SOLVERS)}, got {name!r}")
    return SOLVERS[name]
