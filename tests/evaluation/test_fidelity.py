"""Closed forms for Gaussians, planted failures, and agreement with torch-fidelity."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch_fidelity import metric_fid, metric_kid, metric_prc

from benchmarks.ablations.real import real_floor
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import Estimate, MeasureWarning
from wsigen.evaluation.fidelity import (
    OVERLAP,
    fid,
    frechet_distance,
    kid,
    overlap,
    pairwise_distances,
    polynomial_mmd,
)


def normal(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def exactly(features: np.ndarray, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Moved so that the sample has exactly this mean and the covariance root @ root.T."""
    centred = features - features.mean(0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred, rowvar=False))).T
    return white @ root.T + mean


def test_frechet_distance_of_disjoint_gaussians_has_its_closed_form():
    d, rng = 6, np.random.default_rng(0)
    a, b = np.diag(rng.uniform(0.5, 2, d)), np.diag(rng.uniform(0.5, 2, d))
    x = exactly(normal(50, d, 1), np.zeros(d), a)
    y = exactly(normal(70, d, 2), np.full(d, 10.0), b)
    expected = 100 * d + float(((np.diag(a) - np.diag(b)) ** 2).sum())  # of commuting covariances
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_torch_fidelity():
    mix = np.random.default_rng(3).normal(size=(12, 12))
    x, y = normal(60, 12, 4) @ mix, normal(80, 12, 5, 0.5, 1.5)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-9)


def test_fewer_samples_than_dimensions_warn_and_still_agree():
    x, y = normal(10, 20, 6), normal(15, 20, 7, 1.0)
    with pytest.warns(MeasureWarning, match="10 samples in 20 dimensions"):
        ours = frechet_distance(x, y)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_identical_sets_are_at_no_distance():
    x = normal(40, 8, 8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_kernel_distance_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    within_x, within_y = (0 * 1 + 1) ** 3, (2 * 3 + 1) ** 3
    between = np.mean([1, 1, 27, 64])
    assert polynomial_mmd(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kernel_distance_agrees_with_torch_fidelity():
    x, y = normal(50, 16, 9), normal(50, 16, 10, 0.3)
    theirs = metric_kid.kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=50, verbose=False
    )[metric_kid.KEY_METRIC_KID_MEAN]
    assert polynomial_mmd(x, y) == pytest.approx(theirs, rel=1e-9)
    assert kid(x, y).value == pytest.approx(theirs, rel=1e-9)
    of_subsets = kid(x, y, subset_size=25, subsets=100)
    assert of_subsets.value == pytest.approx(theirs, rel=0.3)
    assert of_subsets.low < theirs < of_subsets.high


def test_kernel_distance_is_unbiased():
    values = [polynomial_mmd(normal(20, 4, 2 * s), normal(30, 4, 2 * s + 1)) for s in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_intervals_hold_the_value_and_shrink_with_samples():
    widths = []
    for n in (100, 1600):
        estimate = fid(normal(n, 5, 11), normal(n, 5, 12, 1.0))
        assert estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.6)
    assert fid(normal(30, 5, 13), normal(30, 5, 13)).low == 0


def test_slides_that_differ_widen_the_interval_and_raise_the_floor():
    slides = np.repeat(np.arange(8), 50)
    real = normal(400, 4, 15) + normal(8, 4, 16)[slides]
    generated = normal(400, 4, 17)
    by_patch, by_slide = (
        fid(generated, real),
        fid(generated, real, real_slides=slides, generated_slides=slides),
    )
    assert by_slide.high - by_slide.low > 1.5 * (by_patch.high - by_patch.low)
    assert (
        real_floor(frechet_distance, real, slides=slides).value > 3 * real_floor(frechet_distance, real).value
    )


def test_the_floor_is_what_a_perfect_generator_gets():
    real = normal(400, 6, 18)
    floor = real_floor(frechet_distance, real, size=150, draws=20)
    perfect = [frechet_distance(normal(150, 6, 100 + s), normal(150, 6, 200 + s)) for s in range(20)]
    assert floor.value == pytest.approx(np.mean(perfect), rel=0.25)
    assert floor.low < floor.value < floor.high
    assert frechet_distance(normal(150, 6, 19, 0.5), real[:150]) > floor.high
    with pytest.raises(InvalidValueError, match="twice as many"):
        real_floor(frechet_distance, real, size=201)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), "equal in dimensions"),
        (np.ones((1, 3)), np.ones((5, 3)), "samples ≥ 2"),
        (np.full((5, 3), np.nan), np.ones((5, 3)), "finite"),
    ],
)
def test_bad_features_are_named(x, y, message):
    with pytest.raises(InvalidValueError, match=message):
        frechet_distance(x, y)


def test_labels_must_fit():
    with pytest.raises(InvalidValueError, match="one slide label per sample"):
        fid(normal(20, 3, 20), normal(20, 3, 21), real_slides=["a"])


@given(seed=st.integers(0, 999), shift=st.floats(-5, 5), scale=st.floats(0.1, 3))
def test_a_moved_and_scaled_copy_has_the_closed_form_in_any_rotation(seed, shift, scale):
    """y = s x + δ: |(s - 1) μ + δ|² + (s - 1)² tr Σ."""
    x = normal(40, 5, seed)
    rotation = np.linalg.qr(normal(5, 5, seed + 1))[0]
    y = scale * x + shift
    mean = (scale - 1) * x.mean(0) + shift
    expected = mean @ mean + (scale - 1) ** 2 * np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(y @ rotation, x @ rotation) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(seed=st.integers(0, 999))
def test_distances_are_symmetric_and_do_not_know_the_order(seed):
    x, y = normal(20, 4, seed), normal(30, 4, seed + 1, 0.5)
    order = np.random.default_rng(seed).permutation(30)
    for distance in (frechet_distance, polynomial_mmd):
        assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)
        assert distance(x, y[order]) == pytest.approx(distance(x, y), rel=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of the closed form between N(0, I) and N(1, I) in one dimension, which is 1."""
    held = 0
    for seed in range(60):
        estimate = fid(normal(300, 1, 1000 + seed), normal(300, 1, 2000 + seed, 1.0), draws=40)
        held += estimate.low < 1 < estimate.high
    assert held / 60 > 0.85


def test_distances_grow_with_the_flaw():
    real = normal(300, 8, 30)
    shifts = [0.0, 0.3, 0.6, 1.2]
    for measure in (frechet_distance, polynomial_mmd):
        values = [measure(normal(300, 8, 31, shift), real) for shift in shifts]
        assert values == sorted(values)
        floor = real_floor(measure, real, draws=6)
        assert values[-1] > floor.high + 5 * (floor.high - floor.low)


def test_the_same_seed_gives_the_same_numbers():
    x, y = normal(60, 4, 32), normal(80, 4, 33)
    assert fid(x, y, seed=5) == fid(x, y, seed=5)
    assert kid(x, y, subset_size=20, seed=5) == kid(x, y, subset_size=20, seed=5)
    assert kid(x, y, subset_size=20, seed=6) != kid(x, y, subset_size=20, seed=5)


class Overlap(NamedTuple):
    precision: Estimate
    density: Estimate
    recall: Estimate
    coverage: Estimate


def overlap_of(*sets: np.ndarray, **options) -> Overlap:
    assert tuple(metric.key for metric in OVERLAP) == Overlap._fields
    return Overlap(*overlap(*sets, **options))


def test_overlap_agrees_with_torch_fidelity():
    generated, real = normal(80, 6, 0), normal(90, 6, 1, 0.8)
    theirs = metric_prc.prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    ours = overlap_of(generated, real, draws=2)
    assert ours.precision.value == pytest.approx(theirs[metric_prc.KEY_METRIC_PRECISION])
    assert ours.recall.value == pytest.approx(theirs[metric_prc.KEY_METRIC_RECALL])
    assert 0.1 < ours.precision.value < 0.95


def test_overlap_by_hand_on_a_line():
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


def test_intervals_of_overlap_hold_the_value_and_stay_in_range():
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


def test_slides_that_differ_widen_the_intervals_of_overlap():
    slides = np.repeat(np.arange(8), 25)
    real, generated = (normal(200, 3, s) + 3 * normal(8, 3, s + 1)[slides] for s in (40, 42))
    by_patch = overlap_of(generated, real)
    by_slide = overlap_of(generated, real, generated_slides=slides, real_slides=slides)
    assert by_slide.coverage.value == by_patch.coverage.value
    assert by_slide.coverage.high - by_slide.coverage.low > by_patch.coverage.high - by_patch.coverage.low
    assert by_slide.coverage.method.endswith("slides")
