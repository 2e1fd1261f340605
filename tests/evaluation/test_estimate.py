"""Intervals have the width that theory gives, and halves are halves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import half, jackknife


def test_interval_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(3, 2, 400)
    (mean,) = jackknife(lambda i: [x[i].mean()], [400], draws=2000)
    assert mean.value == x.mean()
    half_width = 1.96 * x.std() / 20
    assert mean.low == pytest.approx(mean.value - half_width, abs=0.1 * half_width)
    assert mean.high == pytest.approx(mean.value + half_width, abs=0.1 * half_width)
    assert mean.method == "2000 random halves of patches"


def test_the_bias_of_halves_is_taken_out():
    (estimate,) = jackknife(lambda i: [1 / len(i)], [100], draws=5)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.01, 0.01, 0.01))


def test_patches_of_one_slide_count_as_one():
    """Ten slides of 100 equal patches have the uncertainty of ten values, not of a thousand."""
    of_slide = np.random.default_rng(1).normal(0, 1, 10)
    x, slides = np.repeat(of_slide, 100), np.repeat([f"slide {i}" for i in range(10)], 100)
    (by_patch,) = jackknife(lambda i: [x[i].mean()], [1000], draws=300)
    (by_slide,) = jackknife(lambda i: [x[i].mean()], [slides], draws=300)
    assert by_slide.high - by_slide.low == pytest.approx(2 * 1.96 * of_slide.std() / np.sqrt(10), rel=0.25)
    assert by_slide.high - by_slide.low > 5 * (by_patch.high - by_patch.low)
    assert by_slide.method.endswith("slides")


def test_several_numbers_known_values_and_bounds():
    x = np.array([0.0, 0, 0, 1])
    first, second = jackknife(lambda i: [x[i].mean(), x[i].max()], [4], values=[0.25, 1], bounds=(0, 1))
    assert (first.value, first.low, second.value, second.high) == (0.25, 0.0, 1.0, 1.0)
    assert str(second).startswith("1 [0.")


@given(seed=st.integers(0, 99))
def test_slides_are_never_split_where_there_are_enough(seed):
    slides = np.array(list("aaabbbbccddddd"))
    chosen = half(slides, np.random.default_rng(seed))
    assert len(set(slides[chosen])) == 2
    assert set(slides[chosen]).isdisjoint(np.delete(slides, chosen))
    assert len(half(slides[:9], np.random.default_rng(seed))) == 4  # three slides only: patches are drawn


def test_same_seed_same_interval_and_too_few_samples_are_refused():
    x = np.random.default_rng(2).normal(size=50)
    first, second = (jackknife(lambda i: [x[i].var()], [50], seed=7) for _ in range(2))
    assert first == second
    with pytest.raises(InvalidValueError, match="at least 4 samples"):
        jackknife(lambda i: [0.0], [3])


def test_intervals_of_a_mean_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        x = rng.exponential(1, 80)
        (mean,) = jackknife(lambda i, x=x: [x[i].mean()], [80], draws=100, seed=seed)
        held += mean.low < 1 < mean.high
    assert 0.88 < held / 200 < 0.99


def test_two_sides_add_their_uncertainties():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 400), rng.normal(0, 2, 400)
    (both,) = jackknife(lambda i, j: [a[i].mean() - b[j].mean()], [400, 400], draws=1000)
    expected = 2 * 1.96 * np.sqrt(a.var() / 400 + b.var() / 400)
    assert both.high - both.low == pytest.approx(expected, rel=0.12)
