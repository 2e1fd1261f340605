"""The two-sample test has the AUC that theory gives, and does not mistake slides for realism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.realism import Discriminant, auc, shrunk_covariance, two_sample_test


def normal(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (n, d))


def slides(n: int, count: int) -> np.ndarray:
    return np.arange(n) % count


def test_equal_distributions_cannot_be_told_apart():
    values = [
        two_sample_test(normal(200, 20, 2 * s), normal(200, 20, 2 * s + 1), generated_slides=slides(200, 8),
                        real_slides=slides(200, 8), draws=10).value
        for s in range(10)
    ]  # fmt: skip
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


def test_shifted_gaussians_have_the_auc_of_theory():
    """AUC = Φ(|δ|/√2) for a shift δ, if the classifier finds its direction."""
    shift = 0.4
    result = two_sample_test(
        normal(1500, 5, 1, shift),
        normal(1500, 5, 2),
        generated_slides=slides(1500, 30),
        real_slides=slides(1500, 30),
    )
    assert result.value == pytest.approx(norm.cdf(shift * np.sqrt(5) / np.sqrt(2)), abs=0.02)
    assert result.low < result.value < result.high
    assert result.high - result.low < 0.06


def test_knowing_slides_is_not_knowing_realism():
    """Every slide has its own look; sets of slides are of one distribution."""
    labels = slides(400, 10)
    looks = normal(20, 40, 3) * 2
    generated, real = normal(400, 40, 4) + looks[labels], normal(400, 40, 5) + looks[10 + labels]
    kept_apart = two_sample_test(generated, real, generated_slides=labels, real_slides=labels)
    assert kept_apart.low < 0.5
    with pytest.warns(MeasureWarning, match="it may know slides"):
        assert two_sample_test(generated, real).value > 0.95


def test_a_planted_flaw_is_found_among_many_features():
    generated, real = normal(300, 200, 6), normal(300, 200, 7)
    generated[:, 17] += 2
    labels = slides(300, 10)
    result = two_sample_test(generated, real, generated_slides=labels, real_slides=labels)
    assert result.low > 0.75


def test_discriminant_is_fishers_where_samples_abound():
    rng = np.random.default_rng(8)
    mix = rng.normal(size=(4, 4))
    x, y = normal(40_000, 4, 9) @ mix + (1, 0, 0, 1), normal(40_000, 4, 10) @ mix
    expected = np.linalg.solve(mix.T @ mix, [1, 0, 0, 1])
    scores = Discriminant(x, y)(np.eye(4)) - Discriminant(x, y)(np.zeros((1, 4)))
    assert scores @ expected / np.linalg.norm(scores) / np.linalg.norm(expected) > 0.999


def test_shrinkage_goes_from_nothing_to_all():
    many, few = normal(100_000, 3, 11) * (1, 2, 3), normal(5, 50, 12)
    np.testing.assert_allclose(shrunk_covariance(many), np.diag([1, 4, 9]), atol=0.2)
    off_diagonal = shrunk_covariance(few) - np.diag(np.diag(shrunk_covariance(few)))
    assert (
        np.abs(off_diagonal).max() < 0.3 * np.abs(few.T @ few / 5 - np.diag(np.diag(few.T @ few / 5))).max()
    )
    np.linalg.cholesky(shrunk_covariance(few))


@given(seed=st.integers(0, 99), n=st.integers(1, 12), m=st.integers(1, 12))
def test_auc_is_the_share_of_ordered_pairs(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, n), rng.integers(0, 5, m)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert auc(a, b) == pytest.approx(np.mean(pairs))
    assert auc(b, a) == pytest.approx(1 - auc(a, b))


def test_two_slides_a_side_are_enough_and_ten_samples():
    result = two_sample_test(
        normal(20, 3, 13, 3), normal(20, 3, 14), generated_slides=slides(20, 2), real_slides=slides(20, 2)
    )
    assert result.value > 0.95
    with pytest.raises(InvalidValueError, match="at least 10 samples"):
        two_sample_test(normal(9, 3, 15), normal(20, 3, 16))


def test_scale_and_order_of_features_do_not_matter():
    generated, real = normal(80, 6, 20, 0.4), normal(90, 6, 21)
    labels = [slides(80, 8), slides(90, 8)]
    scale, order = np.array([1e-3, 1, 10, 1e4, 5, 0.1]), [3, 1, 0, 5, 4, 2]

    def value(f):
        return two_sample_test(f(generated), f(real), generated_slides=labels[0], real_slides=labels[1]).value

    plain = value(lambda x: x)
    assert value(lambda x: x * scale + 7) == pytest.approx(plain, abs=1e-6)
    assert value(lambda x: x[:, order]) == pytest.approx(plain, abs=1e-6)


def test_constant_features_are_harmless():
    generated, real = normal(60, 4, 22, 1.0), normal(60, 4, 23)
    flat = np.ones((60, 3))
    labels = {"generated_slides": slides(60, 6), "real_slides": slides(60, 6)}
    with_flat = two_sample_test(np.hstack([generated, flat]), np.hstack([real, flat]), **labels)
    assert with_flat.value == pytest.approx(two_sample_test(generated, real, **labels).value, abs=0.02)
