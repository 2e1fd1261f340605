"""Solvers against the closed form of the Gaussian denoiser: order, evaluations, history."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import SOLVERS, DPMSolverPP2M, Euler, Heun, Solver, solver_by_name
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.errors import InvalidValueError

GAUSSIAN = GaussianDenoiser(sigma_data=0.5, mean=0.1)
SIGMA_MIN = 0.05


def error(solver: Solver, steps: int, *, sigma_max: float = 10.0) -> float:
    """Largest error at sigma_min: the last step to 0 is of first order by design, and left out."""
    sigmas = karras_sigmas(steps, sigma_min=SIGMA_MIN, sigma_max=sigma_max)
    x = sigma_max * torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)
    exact = GAUSSIAN.solution(x, sigma_max, SIGMA_MIN)
    history = None
    for i in range(steps - 1):
        x, history = solver.step(at_mpp(GAUSSIAN, 1.0), x.clone(), sigmas, i, history)
    return float((x - exact).abs().max())


@pytest.mark.parametrize(("name", "order"), [("heun", 2), ("dpmpp_2m", 2), ("euler", 1)])
def test_order_of_convergence(name, order):
    steps = np.array([65, 129, 257, 513])
    errors = [error(SOLVERS[name], int(n)) for n in steps]
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps - 1))
    assert slopes[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < (1e-3 if order == 2 else 1e-2)


def test_second_order_beats_first_at_equal_evaluations():
    assert error(SOLVERS["heun"], 40) < error(SOLVERS["euler"], 80) / 5
    assert error(SOLVERS["dpmpp_2m"], 40) < error(SOLVERS["euler"], 40) / 5


@pytest.mark.parametrize("name", list(SOLVERS))
def test_whole_trajectories_end_at_the_closed_form(name):
    sigmas = karras_sigmas(200)
    x = 80 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = integrate(at_mpp(GAUSSIAN, 1.0), x, sigmas, SOLVERS[name])
    tolerance = {"heun": 2e-3, "dpmpp_2m": 5e-3, "euler": 0.08}[name]
    torch.testing.assert_close(result, GAUSSIAN.solution(x, 80), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("solver", "count"), [(Heun(), 79), (Euler(), 40), (DPMSolverPP2M(), 40)])
def test_evaluations_are_counted_as_they_happen(solver, count):
    seen = []

    def estimate(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(sigma)
        return x * 0.5

    integrate(estimate, torch.ones(1, 3, 2, 2), karras_sigmas(40), solver)
    assert solver.evaluations(40) == count == len(seen)
    assert min(seen) == 0.002, "a network is never asked at sigma 0"


@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_last_step_returns_the_estimate(name):
    sigmas = karras_sigmas(3)
    x, target = torch.randn(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.25)
    result, _ = SOLVERS[name].step(lambda x, s: target, x, sigmas, 2, torch.zeros_like(x))
    assert torch.equal(result, target)


def test_only_multistep_solvers_keep_history():
    x = torch.ones(1, 3, 2, 2)
    for name, solver in SOLVERS.items():
        _, history = solver.step(lambda x, s: x * 0.5, x.clone(), karras_sigmas(5), 0, None)
        assert solver.needs_history == (history is not None) == (name == "dpmpp_2m")


def test_multistep_extrapolates_the_estimates():
    # Steps of equal ratio, so that r = 1 and the two estimates are weighed 3/2 and -1/2.
    sigmas = (4.0, 2.0, 1.0, 0.5, 0.0)
    x = torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64)
    current, history = DPMSolverPP2M().step(lambda x, s: torch.ones_like(x), x.clone(), sigmas, 0)
    assert current.item() == pytest.approx(3)
    current, history = DPMSolverPP2M().step(lambda x, s: 2 * torch.ones_like(x), current, sigmas, 1, history)
    # r = 1: the estimate is 3/2·2 - 1/2·1 = 2.5.
    assert current.item() == pytest.approx(0.5 * 3 + 0.5 * 2.5)


def test_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(InvalidValueError, match="heun, euler, dpmpp_2m, got 'ddim'"):
        solver_by_name("ddim")
