import numpy as np
import pytest
import torch
from torch import nn

from wsigen.nn.ema import PowerEMA, power_function_gamma


def profile_std(gamma):
    # standard deviation of the density (γ+1) t^γ on [0, 1], by quadrature
    t = np.linspace(0, 1, 200_001)
    density = (gamma + 1) * t**gamma
    mean = np.trapezoid(density * t, t)
    return np.sqrt(np.trapezoid(density * (t - mean) ** 2, t))


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_gamma_gives_the_asked_width(sigma_rel):
    assert profile_std(power_function_gamma(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-3)


def test_average_has_the_power_function_profile():
    # feed weights 1, 2, 3, …: the average must be the profile's mean, (γ+1)/(γ+2) of the run
    module = nn.Linear(1, 1, bias=False)
    ema = PowerEMA(module, sigma_rel=0.1)
    updates = 4000
    for t in range(1, updates + 1):
        nn.init.constant_(module.weight, t)
        ema.update(module, t)
    expected = (ema.gamma + 1) / (ema.gamma + 2) * updates
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-3)


def test_start_is_forgotten_at_the_first_update():
    module = nn.Linear(2, 2)
    ema = PowerEMA(module)
    nn.init.constant_(module.weight, 3.0)
    ema.update(module, 1)
    assert ema.state_dict()["weight"].eq(3).all()


def test_buffers_follow_and_state_round_trips():
    module = nn.BatchNorm1d(3)
    ema = PowerEMA(module)
    module(torch.randn(8, 3))
    ema.update(module, 1)
    assert ema.state_dict()["num_batches_tracked"].item() == 1
    other = PowerEMA(nn.BatchNorm1d(3))
    other.load_state_dict(ema.state_dict())
    for name, value in ema.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
