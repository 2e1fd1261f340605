"""Intervals have the width that theory gives, halves are halves, and warnings reach the report."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import caution, different, half, jackknife, mean_over_groups, run_measure


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


def test_groups_count_alike_and_the_interval_is_students():
    (found,) = mean_over_groups(np.array([1.0, 3.0, 5.0, 5.0, 5.0]), ["a", "a", "b", "b", "b"])
    assert found.value == 3.5  # of 2 and 5
    half = 12.7062 * math.sqrt(4.5) / math.sqrt(2)
    assert (found.low, found.high) == pytest.approx((3.5 - half, 3.5 + half), rel=1e-5)
    assert found.method == "2 slides or cases"


def test_one_group_has_the_interval_of_its_values():
    (found,) = mean_over_groups(np.array([1.0, 2.0, 3.0]), ["a"] * 3)
    assert found.value == 2
    assert found.high - found.value == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert found.method == "3 places on one slide or case"


def test_a_single_value_has_what_it_knows_of_itself():
    (found,) = mean_over_groups(np.array([2.0]), ["a"], np.array([0.5]))
    assert (found.low, found.high) == pytest.approx((2 - 0.979982, 2 + 0.979982), rel=1e-5)
    (found,) = mean_over_groups(np.array([2.0]), ["a"])
    assert found.low == found.high == 2


def test_several_numbers_at_once():
    found = mean_over_groups(np.array([[1.0, 10.0], [3.0, 10.0]]), ["a", "b"])
    assert [e.value for e in found] == [2, 10]
    assert found[1].low == found[1].high == 10


def test_the_interval_holds_the_mean_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        centres = rng.normal(0, 1, 5).repeat(6)
        (found,) = mean_over_groups(
            centres + rng.normal(0, 0.3, 30), [name for name in "abcde" for _ in range(6)]
        )
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_cautions_are_heard_once():
    def measure() -> int:
        caution("biased from 12 patches")
        caution("biased from 13 patches")
        caution("something else")
        return 3

    assert run_measure(measure) == (3, ("biased from 12 patches", "something else"))
    assert run_measure(lambda: 4) == (4, ())


def test_a_refusal_is_a_value_that_is_missing():
    def measure() -> int:
        caution("careful")
        raise InvalidValueError("too few")

    assert run_measure(measure) == (None, ("careful", "not measured: too few"))


def test_bugs_and_other_warnings_come_through():
    with pytest.raises(ZeroDivisionError):
        run_measure(lambda: 1 // 0)
    with pytest.warns(UserWarning, match="other"):
        run_measure(lambda: warnings.warn("other", stacklevel=1))


def test_messages_that_differ_in_numbers_are_one():
    assert different(["a 1.5 b", "a 22 b", "c", "a 1.5 b"]) == ("a 1.5 b", "c")
