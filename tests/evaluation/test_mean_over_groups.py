"""Student's intervals over slides, by hand and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsigen.evaluation.estimate import mean_over_groups


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
