"""Noise level of each step, and the step until which the guide is enforced."""

from __future__ import annotations

from collections.abc import Sequence

from wsigen.errors import InvalidValueError


def karras_sigmas(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> tuple[float, ...]:
    """Return noise levels sigma_0 > … > sigma_{N-1} > sigma_N = 0 (Karras et al. 2022, eq. 5).

    sigma_i = (sigma_max^(1/rho) + i/(N-1) · (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for i < N. A
    truncated start passes its sigma_start as ``sigma_max``.

    Args:
        steps: number of solver steps N, at least 1.
        sigma_min: the last noise level before 0.
        sigma_max: the first noise level.
        rho: concentration of the levels at the low end; 7 in the paper.

    Returns:
        N + 1 noise levels, the last of them 0.

    Raises:
        InvalidValueError: no steps, or noise levels out of order.
    """
    if steps < 1:
        raise InvalidValueError(f"steps must be at least 1, got {steps}")
    if not 0 < sigma_min < sigma_max:
        raise InvalidValueError(
            f"noise levels must satisfy 0 < sigma_min < sigma_max (or sigma_start), got sigma_min "
            f"{sigma_min} and {sigma_max}"
        )
    if steps == 1:
        return (sigma_max, 0.0)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = ((high + i / (steps - 1) * (low - high)) ** rho for i in range(1, steps - 1))
    # The ends are set, not computed: a root and its power would not return exactly there.
    return (sigma_max, *inner, sigma_min, 0.0)


def relax_index(
    sigmas: Sequence[float], *, relax_step: int | None = None, relax_sigma: float | None = None
) -> int:
    """Return the first step at which the guide is no longer enforced (r in Harb et al. 2024, Algorithm 1).

    Step i is guided while i < r, or while sigma_i > ``relax_sigma``, which means the same for any number of
    steps. (The paper's text says that r = 0 always enforces the guide; Algorithm 1 and Fig. 7, which we
    follow, say never.)

    Args:
        sigmas: the schedule, N + 1 levels.
        relax_step: r, from 0 (never guided) to N (always).
        relax_sigma: the noise level instead; 0 means always.

    Raises:
        InvalidValueError: both or neither given, or out of range.
    """
    steps = len(sigmas) - 1
    if (relax_step is None) == (relax_sigma is None):
        raise InvalidValueError(f"give either relax_step or relax_sigma, got {relax_step} and {relax_sigma}")
    if relax_sigma is not None:
        if relax_sigma < 0:
            raise InvalidValueError(f"relax_sigma must not be negative, got {relax_sigma}")
        return sum(sigma > relax_sigma for sigma in sigmas[:-1])
    assert relax_step is not None
    if not 0 <= relax_step <= steps:
        raise InvalidValueError(
            f"relax_step must be between 0 (never guided) and the number of steps {steps}, got {relax_step}"
        )
    return relax_step
