"""Guided steps: enforced while i < r, in Heun's second evaluation too, and exact at the end."""

from __future__ import annotations

import pytest
import torch

from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.diffusion.guide import pool
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import SOLVERS
from wsigen.diffusion.step import OfClass, at_mpp, guided, integrate

GAUSSIAN = GaussianDenoiser()
SIGMAS = karras_sigmas(12, sigma_max=20)


def start(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 20 * torch.randn(2, 3, 8, 8, generator=generator)
    return x, torch.rand(2, 3, 4, 4, generator=generator) - 0.5


def run(solver: str, relax: int, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    return integrate(at_mpp(GAUSSIAN, 0.5), x, SIGMAS, SOLVERS[solver], guide=y, k=2, relax=relax)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_relaxed_from_the_start_means_never_guided(solver):
    x, y = start()
    assert torch.equal(run(solver, 0, x, y), run(solver, 0, x, None))


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_guided_to_the_end_means_exactly_the_guide(solver):
    x, y = start()
    torch.testing.assert_close(pool(run(solver, len(SIGMAS) - 1, x, y), 2), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_the_later_the_guide_is_relaxed_the_closer_it_is_followed(solver):
    x, y = start()
    misses = [(pool(run(solver, r, x, y), 2) - y).abs().mean().item() for r in (0, 4, 8, 12)]
    assert misses == sorted(misses, reverse=True)
    assert misses[0] > 10 * misses[3]


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_exactly_r_steps_are_guided(solver):
    """A denoiser that records what it is shown: guided steps move block means along the guide's line."""
    x, y = start()
    r, seen = 5, []

    def estimate(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append((sigma, pool(x, 2)))
        return torch.zeros_like(x)

    integrate(estimate, x, SIGMAS, SOLVERS[solver], guide=y, k=2, relax=r)
    # With D = 0, guided block means follow y + (m0 - y)·sigma/sigma0, and unguided ones shrink to 0.
    m0 = pool(x, 2)
    for sigma, means in seen:
        if sigma >= SIGMAS[r]:
            torch.testing.assert_close(means, y + (m0 - y) * sigma / SIGMAS[0], rtol=1e-4, atol=1e-4)
        elif solver != "dpmpp_2m":  # whose history still remembers the guide for a step
            at_r = y + (m0 - y) * SIGMAS[r] / SIGMAS[0]
            torch.testing.assert_close(means, at_r * sigma / SIGMAS[r], rtol=1e-4, atol=1e-4)


def test_the_start_is_left_alone():
    x, y = start()
    before = x.clone()
    run("heun", 6, x, y)
    assert torch.equal(x, before)


def test_a_denoiser_is_told_sigma_and_pixel_size_per_image():
    told = []

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, mpp: torch.Tensor) -> torch.Tensor:
        told.append((sigma.tolist(), mpp.tolist()))
        return torch.zeros_like(x)

    x, y = start()
    guided(at_mpp(denoiser, 0.25), y, 2)(x, 3.0)
    assert told == [([3.0, 3.0], [0.25, 0.25])]


def test_gaussian_solution_is_consistent_between_levels():
    x, _ = start()
    gaussian = GaussianDenoiser(sigma_data=0.3, mean=-0.2)
    halfway = gaussian.solution(x, 20, 1)
    torch.testing.assert_close(gaussian.solution(halfway, 1), gaussian.solution(x, 20))
    # The estimate is the posterior mean: its slope towards the data is (x - D)/sigma = dx/dsigma.
    step = 1e-3
    before, at_one, after = (gaussian.solution(x.double(), 20, s) for s in (1 - step, 1, 1 + step))
    slope = (after - before) / (2 * step)
    d = at_one - gaussian(at_one, torch.ones(2), torch.ones(2))
    torch.testing.assert_close(slope, d, rtol=1e-4, atol=1e-4)


class ByClass:
    """Images of class c have the mean c, those of none the mean -1."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        mpp: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.calls.append("none" if class_labels is None else str(class_labels.tolist()))
        mean = torch.full_like(sigma, -1) if class_labels is None else class_labels.to(sigma)
        return mean[:, None, None, None].expand_as(x).clone()


@pytest.mark.parametrize(
    ("guidance", "mean", "calls"), [(1.0, 2.0, ["[2, 2]"]), (2.0, 5.0, ["[2, 2]", "none"]), (0.5, 0.5, None)]
)
def test_guidance_goes_from_the_estimate_of_no_class_towards_that_of_the_class(guidance, mean, calls):
    """And beyond it: -1 + w (2 + 1)."""
    denoiser = ByClass()
    x = torch.zeros(2, 3, 4, 4)
    D_x = at_mpp(OfClass(denoiser, 2, guidance), 0.5)(x, 1.0)
    torch.testing.assert_close(D_x, torch.full_like(x, mean))
    assert calls is None or denoiser.calls == calls
