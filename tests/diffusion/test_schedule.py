"""Noise levels of EDM, and the meaning of relaxing the guide."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.diffusion.schedule import karras_sigmas, relax_index
from wsigen.errors import InvalidValueError


def test_forty_steps_have_the_published_levels():
    sigmas = karras_sigmas(40)
    assert (len(sigmas), sigmas[0], sigmas[39], sigmas[40]) == (41, 80, 0.002, 0)
    assert [round(sigmas[i], 3) for i in (16, 20, 24, 28)] == [5.38, 2.24, 0.823, 0.256]


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 60),
    low=st.floats(1e-3, 0.5),
    high=st.floats(0.6, 100),
    rho=st.floats(1, 10),
)
def test_levels_fall_from_the_start_to_zero(steps, low, high, rho):
    sigmas = karras_sigmas(steps, sigma_min=low, sigma_max=high, rho=rho)
    assert len(sigmas) == steps + 1
    assert all(a > b for a, b in itertools.pairwise(sigmas))
    assert (sigmas[0], sigmas[-1]) == (high, 0)
    assert steps == 1 or sigmas[-2] == low


def test_rho_one_is_linear():
    assert karras_sigmas(3, sigma_min=1, sigma_max=3, rho=1) == pytest.approx((3, 2, 1, 0))


@pytest.mark.parametrize(("steps", "low", "high"), [(0, 0.002, 80), (10, 0, 80), (10, 2, 2), (10, 3, 2)])
def test_impossible_schedules_are_refused(steps, low, high):
    with pytest.raises(InvalidValueError, match=r"(steps|noise levels) must"):
        karras_sigmas(steps, sigma_min=low, sigma_max=high)


def test_relax_step_and_the_noise_level_it_stands_for_agree():
    sigmas = karras_sigmas(40)
    assert relax_index(sigmas, relax_step=28) == 28
    assert relax_index(sigmas, relax_sigma=0.256) == 28  # sigma_28 = 0.2556
    assert relax_index(sigmas, relax_sigma=sigmas[28]) == 28


def test_step_zero_never_guides_and_step_n_always():
    sigmas = karras_sigmas(12, sigma_max=2)
    assert relax_index(sigmas, relax_step=0) == 0
    assert relax_index(sigmas, relax_sigma=2.0) == 0
    assert relax_index(sigmas, relax_step=12) == 12
    assert relax_index(sigmas, relax_sigma=0) == 12


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 50), level=st.floats(0, 100))
def test_a_step_is_guided_exactly_while_its_level_is_above(steps, level):
    sigmas = karras_sigmas(steps)
    r = relax_index(sigmas, relax_sigma=level)
    assert [i < r for i in range(steps)] == [sigma > level for sigma in sigmas[:-1]]


@pytest.mark.parametrize(("step", "sigma"), [(None, None), (3, 0.2), (-1, None), (13, None), (None, -0.1)])
def test_relax_must_be_given_once_and_in_range(step, sigma):
    with pytest.raises(InvalidValueError, match="relax"):
        relax_index(karras_sigmas(12), relax_step=step, relax_sigma=sigma)
