"""Precision and recall of planted failures, by hand on a line, and as torch-fidelity computes them."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch_fidelity import metric_prc

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.fidelity import OVERLAP, overlap, pairwise_distances


class Overlap(NamedTuple):
    precision: Estimate
    density: Estimate
    recall: Estimate
    coverage: Estimate


def overlap_of(*sets: np.ndarray, **options) -> Overlap:
    assert tuple(metric.key for metric in OVERLAP) == Overlap._fields
    return Overlap(*overlap(*sets, **options))


def normal(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def test_agrees_with_torch_fidelity():
    generated, real = normal(80, 6, 0), normal(90, 6, 1, 0.8)
    theirs = metric_prc.prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    ours = overlap_of(generated, real, draws=2)
    assert ours.precision.value == pytest.approx(theirs[metric_prc.KEY_METRIC_PRECISION])
    assert ours.recall.value == pytest.approx(theirs[metric_prc.KEY_METRIC_RECALL])
    assert 0.1 < ours.precision.value < 0.95


def test_by_hand_on_a_line():
    """k = 1: real balls have radius 1, the generated ones 0.1, 0.1, 0.1 and 89.7."""
    real = np.arange(4.0)[:, None]
    generated = np.array([0.1, 0.2, 0.3, 90.0])[:, None]
    ours = overlap_of(generated, real, k=1, k_density=1, draws=2)
    assert ours.precision.value == 0.75
    assert ours.recall.value == 1.0  # all within the ball of the outlier: why density and coverage exist
    assert ours.density.value == (2 + 2 + 2) / 4  # each of the first three in the balls of 0 and 1
    assert ours.coverage.value == 0.5


def test_equal_distributions_have_the_published_expectations():
    values = [overlap_of(normal(300, 4, 10 + s), normal(300, 4, 30 + s), draws=2) for s in range(8)]
    assert np.mean([v.density.value for v in values]) == pytest.approx(1, abs=0.05)
    assert np.mean([v.coverage.value for v in values]) == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_lost_mode_costs_recall_and_a_made_up_one_precision():
    both = np.concatenate([normal(100, 5, 2), normal(100, 5, 3, 20.0)])
    one = normal(200, 5, 4)
    lost = overlap_of(one, both)
    assert lost.precision.value > 0.85
    assert lost.coverage.value == pytest.approx(0.5, abs=0.05)
    assert lost.recall.value < 0.55
    made_up = overlap_of(both, one)
    assert made_up.precision.value < 0.55
    assert made_up.coverage.value > 0.85


def test_disjoint_sets_share_nothing_and_identical_sets_everything():
    x = normal(60, 5, 5)
    apart = overlap_of(x, x + 100)
    assert [apart.precision.value, apart.recall.value, apart.density.value, apart.coverage.value] == [0] * 4
    same = overlap_of(x, x)
    assert same.precision.value == same.recall.value == same.coverage.value == 1


def test_intervals_hold_the_value_and_stay_in_range():
    result = overlap_of(normal(200, 8, 6), normal(200, 8, 7, 0.5))
    for estimate in (result.precision, result.recall, result.density, result.coverage):
        assert 0 <= estimate.low <= estimate.value <= estimate.high
        assert 0.01 < estimate.high - estimate.low < 0.4
    assert max(result.precision.high, result.recall.high, result.coverage.high) <= 1


def test_distances_are_exact_far_from_the_origin():
    x, y = normal(20, 3, 8, 1e4), normal(30, 3, 9, 1e4)
    np.testing.assert_allclose(pairwise_distances(x, y), cdist(x, y), rtol=1e-5)
    assert pairwise_distances(x, x).diagonal().max() < 1e-5


def test_distances_of_many_take_four_bytes_each():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1100, 8)), rng.normal(size=(1500, 8))
    tracemalloc.start()
    found = pairwise_distances(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * found.size + 4 * 512 * 1500 * 8 + 1e6  # and what a few rows take
    np.testing.assert_allclose(found, cdist(x, y), rtol=1e-5)


def test_too_few_samples_for_k_are_refused():
    with pytest.raises(InvalidValueError, match="at least 12 samples"):
        overlap_of(normal(11, 3, 10), normal(50, 3, 11))


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_only_relative_distances_count(seed, scale, shift):
    x, y = normal(20, 3, seed), normal(24, 3, seed + 1, 0.5)
    plain, moved = (overlap_of(f(x), f(y), draws=2) for f in (lambda a: a, lambda a: scale * a + shift))
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(moved, name).value == pytest.approx(
            getattr(plain, name).value, abs=0.051
        )  # ties may turn


@given(seed=st.integers(0, 999))
def test_recall_is_precision_with_the_sides_exchanged(seed):
    x, y = normal(25, 3, seed), normal(25, 3, seed + 1, 1.0)
    there, back = overlap_of(x, y, draws=2), overlap_of(y, x, draws=2)
    assert (there.precision.value, there.recall.value) == (back.recall.value, back.precision.value)


def test_slides_that_differ_widen_the_intervals():
    slides = np.repeat(np.arange(8), 25)
    real, generated = (normal(200, 3, s) + 3 * normal(8, 3, s + 1)[slides] for s in (40, 42))
    by_patch = overlap_of(generated, real)
    by_slide = overlap_of(generated, real, generated_slides=slides, real_slides=slides)
    assert by_slide.coverage.value == by_patch.coverage.value
    assert by_slide.coverage.high - by_slide.coverage.low > by_patch.coverage.high - by_patch.coverage.low
    assert by_slide.coverage.method.endswith("slides")
