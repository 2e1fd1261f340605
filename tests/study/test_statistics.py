"""Statistics against published and exact values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsigen.study.statistics import (
    answers_needed,
    auc,
    auc_interval,
    difference,
    fleiss_kappa,
    kappa_interval,
    pooled_auc,
    pooled_share,
    wilson,
)

# Ten items judged by fourteen readers in five categories, the worked example of many textbooks: κ = 0.210.
TEXTBOOK = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]


def test_fleiss_kappa_of_the_textbook():
    assert fleiss_kappa(np.array(TEXTBOOK)) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_by_hand():
    # Three readers, two items, agreement 1 and 1/3; shares 2/3 and 1/3.
    chance = (2 / 3) ** 2 + (1 / 3) ** 2
    expected = ((1 + 1 / 3) / 2 - chance) / (1 - chance)
    assert fleiss_kappa(np.array([[3, 0], [1, 2]])) == pytest.approx(expected)
    assert fleiss_kappa(np.array([[2, 0], [0, 2]])) == 1
    assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1
    # Items of a single reader do not count, those of fewer readers do.
    assert fleiss_kappa(np.array([[3, 0], [1, 2], [1, 0]])) == pytest.approx(expected)
    assert math.isnan(fleiss_kappa(np.array([[1, 0]])))
    assert math.isnan(fleiss_kappa(np.array([[2, 0], [2, 0]])))  # chance alone


def test_kappa_interval_holds_the_value():
    found = kappa_interval(np.array(TEXTBOOK), seed=1)
    assert found.low < 0.21 < found.high
    assert 0.05 < found.half < 0.3


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_of_published_values(right, count, low, high):
    found = wilson(right, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert found.value == right / count
    assert math.isnan(wilson(0, 0).value)


def test_difference_of_newcombe_1998():
    first, second = (np.repeat([1, 0], n) for n in ([48, 32], [56, 14]))  # 56/70 less 48/80, method 10
    found = difference(first, second)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_auc_by_hand():
    assert auc(np.array([3, 4.0]), np.array([1, 2.0])) == 1
    assert auc(np.array([1, 2.0]), np.array([3, 4.0])) == 0
    assert auc(np.array([1, 3, 2.0]), np.array([2, 2.0])) == pytest.approx((0 + 2 + 1) / 6)
    assert auc(np.array([5.0]), np.array([5.0, 5.0])) == 0.5
    assert math.isnan(auc(np.array([]), np.array([1.0])))


def test_auc_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 400), rng.normal(0, 1, 400)])
    positive = np.arange(800) < 400
    found = auc_interval(scores, positive, seed=0)
    assert found.low < 0.7602 < found.high  # Φ(1/√2)
    se = math.sqrt((0.76 * 0.24 + 2 * 399 * 0.05) / 400**2)  # Hanley & McNeil 1982, about
    assert found.half == pytest.approx(1.96 * se, rel=0.25)


def test_pooled_auc_is_the_mean_of_readers_and_passes_over_gaps():
    positive = np.array([True, True, False, False])
    scores = np.array([[9, 8, 1, 2], [1, 2, 9, 8], [9, np.nan, 1, np.nan], [np.nan] * 4])
    assert pooled_auc(scores, positive, seed=0).value == pytest.approx((1 + 0 + 1) / 3)
    assert math.isnan(pooled_auc(scores[3:], positive, seed=0).value)


def test_bootstrap_over_readers_is_wider_where_readers_differ():
    rng = np.random.default_rng(0)
    alike = (rng.random((6, 60)) < 0.6).astype(float)
    skill = np.array([0.2, 0.4, 0.6, 0.6, 0.8, 1.0])[:, None]
    differ = (rng.random((6, 60)) < skill).astype(float)
    assert pooled_share(differ, 0).half > 2 * pooled_share(alike, 0).half
    found = pooled_share(alike, 0)
    assert found.low < 0.6 < found.high
    assert found == pooled_share(alike, 0)
    gaps = alike.copy()
    gaps[0, :30] = np.nan
    assert pooled_share(gaps, 0).value == pytest.approx(np.nanmean(gaps))
    one = pooled_share(alike[:1], 0)
    assert one.half == pytest.approx(wilson(int(alike[0].sum()), 60).half, rel=0.15)


def test_coverage_of_the_bootstrap_over_items():
    hits, rng = 0, np.random.default_rng(3)
    for i in range(100):
        found = pooled_share((rng.random((1, 50)) < 0.7).astype(float), i)
        hits += found.low <= 0.7 <= found.high
    assert 85 <= hits <= 99


def test_answers_needed_are_the_fewest():
    assert answers_needed(0.5) == 93  # (1.96 / 0.2)² − 1.96²
    assert wilson(47, 93).half <= 0.1 < wilson(46, 92).half
    assert answers_needed(0.5, 0.05) == 381
    assert answers_needed(0.9) < answers_needed(0.7) < answers_needed(0.5)
