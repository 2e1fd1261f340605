"""Whitening and colouring, against the formulas written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from wsigen.stain.style.network import LARGEST_GAIN, FeatureStats, feature_stats, wct_map


def features(seed, channels=6, height=24, width=20, *, faint=1.0):
    """Channels that vary together; the last by ``faint``."""
    random = np.random.default_rng(seed)
    mixing = np.eye(channels) + 0.2 * random.normal(size=(channels, channels))
    mixed = mixing @ random.normal(size=(channels, height * width))
    mixed[-1] *= faint
    return (
        torch.tensor(mixed + random.normal(size=(channels, 1)) * 3)
        .reshape(1, channels, height, width)
        .float()
    )


def stats(x, weight=None):
    return feature_stats(x, weight, covariance=True)


def rows(x):
    return x[0].flatten(1).double().numpy()


def test_covariance_is_biased_and_weighted():
    x = features(0)
    found = stats(x).covariance
    np.testing.assert_allclose(found[0].numpy(), np.cov(rows(x), bias=True), rtol=1e-4, atol=1e-4)
    weight = torch.zeros(1, 1, 24, 20)
    weight[..., :12, :] = 2.0
    torch.testing.assert_close(stats(x, weight).covariance, stats(x[:, :, :12]).covariance)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), stats(x).std.square() - 1e-5)
    assert feature_stats(x).covariance is None


def test_it_is_the_papers_formula():
    x, y = features(1), features(2)
    a, b = rows(x), rows(y)
    roots = [scipy.linalg.sqrtm(np.cov(z, bias=True)).real for z in (a, b)]
    whitened = np.linalg.inv(roots[0]) @ (a - a.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(np.cov(whitened, bias=True), np.eye(6), atol=1e-9)
    wanted = roots[1] @ whitened + b.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(rows(wct_map(stats(x), stats(y))(x)), wanted, atol=2e-3)


def test_the_result_has_the_statistics_of_the_style():
    x, y = features(3), features(4)
    found, wanted = stats(wct_map(stats(x), stats(y))(x)), stats(y)
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.covariance, wanted.covariance, atol=1e-2, rtol=1e-3)


def test_strength_blends():
    x, move = features(5), [stats(features(5)), stats(features(6))]
    full = wct_map(*move)(x)
    torch.testing.assert_close(wct_map(*move, 0.25)(x), 0.75 * x + 0.25 * full, atol=1e-4, rtol=1e-4)
    assert torch.equal(wct_map(*move, 0.0)(x), x)


def test_the_same_statistics_change_nothing():
    x = features(7)
    torch.testing.assert_close(wct_map(stats(x), stats(x))(x), x, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("faint", [0.0, 1e-4, 1e-2])
def test_what_hardly_varies_is_not_blown_up(faint):
    """A component that is dead in a thumbnail may be alive in a tile."""
    move = wct_map(stats(features(8, faint=faint)), stats(features(9)))
    assert torch.linalg.matrix_norm(move.scale, 2) <= LARGEST_GAIN * (1 + 1e-5)
    blank = FeatureStats(torch.ones(1, 6), torch.full((1, 6), 1e-5**0.5), torch.zeros(1, 6, 6))
    painted = wct_map(blank, stats(features(9)))(features(8))
    torch.testing.assert_close(painted, stats(features(9)).mean[:, :, None, None].expand_as(painted))
