"""EDM's coefficients against their defining properties, not against a copy of the formulas."""

import math

import pytest
import torch

from wsigen.diffusion.loss import denoising_loss, draw_noise, loss_weight, uncertainty_weighted
from wsigen.diffusion.precondition import precondition

SIGMA = torch.tensor([0.002, 0.05, 0.5, 2.0, 80.0], dtype=torch.float64)
SIGMA_DATA = 0.5


def test_network_input_has_unit_variance():
    c = precondition(SIGMA, SIGMA_DATA)
    torch.testing.assert_close(c.c_in**2 * (SIGMA_DATA**2 + SIGMA**2), torch.ones_like(SIGMA))


def test_training_target_has_unit_variance():
    # F's target is (y - c_skip (y + σn)) / c_out with Var y = σ_data²
    c = precondition(SIGMA, SIGMA_DATA)
    variance = ((1 - c.c_skip) ** 2 * SIGMA_DATA**2 + c.c_skip**2 * SIGMA**2) / c.c_out**2
    torch.testing.assert_close(variance, torch.ones_like(SIGMA))


def test_c_skip_minimises_the_error_that_the_network_must_correct():
    def c_out_squared(c_skip):
        return (1 - c_skip) ** 2 * SIGMA_DATA**2 + c_skip**2 * SIGMA**2

    c_skip = precondition(SIGMA, SIGMA_DATA).c_skip
    for nudge in (-1e-3, 1e-3):
        assert (c_out_squared(c_skip + nudge) > c_out_squared(c_skip)).all()


def test_c_noise_of_sigma_one_is_zero():
    c = precondition(torch.tensor([1.0, math.exp(4)]), SIGMA_DATA)
    torch.testing.assert_close(c.c_noise, torch.tensor([0.0, 1.0]))


def test_weight_makes_the_untrained_loss_one_at_every_sigma():
    torch.manual_seed(0)
    clean = SIGMA_DATA * torch.randn(5, 3, 64, 64, dtype=torch.float64)
    x = clean + SIGMA[:, None, None, None] * torch.randn_like(clean)
    D_x = precondition(SIGMA, SIGMA_DATA).c_skip[:, None, None, None] * x  # F = 0
    loss = loss_weight(SIGMA, SIGMA_DATA) * (D_x - clean).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, torch.ones_like(loss), rtol=0.05, atol=0)
    torch.testing.assert_close(
        denoising_loss(D_x, clean, SIGMA, SIGMA_DATA).double(), loss, rtol=1e-5, atol=0
    )


def test_loss_is_zero_for_a_perfect_denoiser():
    clean = torch.rand(2, 3, 8, 8)
    assert denoising_loss(clean, clean, torch.tensor([0.1, 3.0]), SIGMA_DATA).eq(0).all()


def test_uncertainty_is_minimal_at_the_log_of_the_loss():
    loss = torch.tensor([0.3, 2.0])
    u = loss.log().requires_grad_()
    uncertainty_weighted(loss, u).sum().backward()
    torch.testing.assert_close(u.grad, torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[3], [1], [0], [2]]])
def test_noise_of_an_image_does_not_depend_on_its_batch(batches):
    kwargs = {"P_mean": -1.2, "P_std": 1.2}
    whole_sigma, whole_noise = draw_noise(7, [0, 1, 2, 3], (3, 8, 8), **kwargs)
    for numbers in batches:
        sigma, noise = draw_noise(7, numbers, (3, 8, 8), **kwargs)
        assert torch.equal(sigma, whole_sigma[numbers])
        assert torch.equal(noise, whole_noise[numbers])


def test_noise_levels_follow_the_lognormal():
    sigma, noise = draw_noise(0, list(range(4000)), (1, 2, 2), P_mean=-0.8, P_std=1.4)
    assert sigma.log().mean().item() == pytest.approx(-0.8, abs=0.08)
    assert sigma.log().std().item() == pytest.approx(1.4, abs=0.06)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


def test_seeds_and_images_differ():
    draw = {s: draw_noise(s, [0, 1], (1, 4, 4), P_mean=0, P_std=1)[1] for s in (0, 1)}
    assert not torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0][0], draw[0][1])
