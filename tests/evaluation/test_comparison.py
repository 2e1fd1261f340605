"""Halves that share no slide, and floors from them."""

from __future__ import annotations

import numpy as np
import pytest

from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import evenly_over_groups, few_groups, floor, split_halves

GROUPS = [name for name in "abcdef" for _ in range(20)]
ONE = [1.0] * len(GROUPS)


def names(indices, groups=GROUPS):
    return {groups[i] for i in indices}


def test_halves_share_no_group_and_are_equal():
    splits = split_halves(GROUPS, ONE, {1.0: 60}, seed=0)
    assert len(splits) == 10
    for split in splits:
        assert not names(split.one) & names(split.other)
        assert len(split.one) == len(split.other) == 60
    assert len({frozenset(frozenset(names(side)) for side in (s.one, s.other)) for s in splits}) == 10


def test_halves_are_of_equal_number_at_every_scale():
    groups, strata = [*GROUPS, *"abc"] * 2, [1.0] * 123 + [4.0] * 123
    for split in split_halves(groups, strata, {1.0: 30, 4.0: 10}, seed=1):
        for side in (split.one, split.other):
            assert [int(np.sum(np.asarray(strata)[side] == m)) for m in (1.0, 4.0)] == [30, 10]


def test_groups_of_different_size_still_make_even_halves():
    groups = ["large"] * 50 + [n for n in "abcde" for _ in range(10)]
    for split in split_halves(groups, [1.0] * 100, {1.0: 100}, seed=2):
        assert len(split.one) >= 40


def test_few_groups_have_few_splits_and_one_group_is_halved_itself():
    assert len(split_halves(["a"] * 9 + ["b"] * 9, [1.0] * 18, {1.0: 9}, seed=0)) == 1
    assert len(split_halves([*"abc"] * 9, [1.0] * 27, {1.0: 9}, seed=0)) == 3
    alone = split_halves(["a"] * 20, [1.0] * 20, {1.0: 10}, seed=0)
    assert len(alone) == 10
    assert all(not set(s.one) & set(s.other) for s in alone)
    assert split_halves(["a", "b"], [1.0, 2.0], {1.0: 1, 2.0: 1}, seed=0) == []  # no scale has both


def test_few_groups_are_said():
    assert "one real slide (or case) only" in (few_groups(["a", "a"]) or "")
    assert "3 real slides (or cases) only" in (few_groups([*"abc"]) or "")
    assert few_groups([*"abcd"]) is None


def test_a_floor_is_the_mean_and_range_over_splits():
    values = np.repeat(np.arange(6.0), 20)
    splits = split_halves(GROUPS, ONE, {1.0: 60}, seed=0)
    apart = [values[s.one].mean() - values[s.other].mean() for s in splits]
    found, constant = floor(lambda i, j: [values[i].mean() - values[j].mean(), 7.0], splits, GROUPS)
    assert found.value == pytest.approx(np.mean(apart))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(apart, [2.5, 97.5])))
    assert (constant.low, constant.value, constant.high) == (7, 7, 7)
    assert found.method == "10 splits of the real slides"


def test_a_floor_of_two_slides_has_the_interval_of_its_patches():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=400), ["a"] * 200 + ["b"] * 200
    splits = split_halves(groups, [1.0] * 400, {1.0: 200}, seed=0)
    (found,) = floor(lambda i, j: [values[i].mean() - values[j].mean()], splits, groups)
    assert found.method == "20 random halves of patches"
    assert 0.5 < (found.high - found.low) / (2 * 1.96 * np.sqrt(2 / 200)) < 1.5


def test_no_splits_is_an_error():
    with pytest.raises(InvalidValueError, match="no floor: the real slides are too few"):
        floor(lambda i, j: [0.0], [], GROUPS)


def test_the_reference_is_even_over_groups_and_seeded():
    groups = ["a"] * 50 + ["b"] * 10 + ["c"] * 10
    chosen = evenly_over_groups(groups, 24, seed=0)
    assert [sum(groups[i] == g for i in chosen) for g in "abc"] == [8, 8, 8]
    assert sum(groups[i] == "a" for i in evenly_over_groups(groups, 40, seed=0)) == 20
    np.testing.assert_array_equal(chosen, evenly_over_groups(groups, 24, seed=0))
    assert len(evenly_over_groups(groups, 1000, seed=0)) == 70
    assert not np.array_equal(chosen, evenly_over_groups(groups, 24, seed=1))
