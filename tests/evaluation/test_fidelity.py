"""Closed forms for Gaussians, agreement with torch-fidelity, and floors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_fidelity import metric_fid, metric_kid

from benchmarks.ablations.real import real_floor
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.fidelity import fid, frechet_distance, kid, polynomial_mmd


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
