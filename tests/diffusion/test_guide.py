"""A and A† are what they claim, and projecting is exact, minimal and idempotent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wsigen.diffusion.guide import pool, project, replicate

factors = pytest.mark.parametrize("k", [2, 3, 4, 5])


def images(k: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(2, 3, 4 * k, 6 * k, generator=generator, dtype=torch.float64)
    return u, torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)


@factors
def test_pool_is_average_pooling(k):
    u, _ = images(k)
    torch.testing.assert_close(pool(u, k), F.avg_pool2d(u, k))


@factors
def test_replicate_is_the_pseudo_inverse_of_pool(k):
    u, y = images(k)
    torch.testing.assert_close(pool(replicate(y, k), k), y)
    # A†A is an orthogonal projection: symmetric, hence <A†A u, v> = <u, A†A v>.
    v = images(k, seed=1)[0]
    left = (replicate(pool(u, k), k) * v).sum()
    torch.testing.assert_close(left, (u * replicate(pool(v, k), k)).sum())


@factors
def test_replicate_places_every_pixel_at_its_block(k):
    y = images(k)[1]
    wide = replicate(y, k)
    for dy in range(k):
        assert torch.equal(wide[:, :, dy::k, (dy + 1) % k :: k], y)


@factors
def test_projected_images_have_exactly_the_guides_means(k):
    u, y = images(k)
    torch.testing.assert_close(pool(project(u.clone(), y, k), k), y, rtol=0, atol=1e-14)


@factors
def test_projection_changes_nothing_but_the_means(k):
    u, y = images(k)
    change = project(u.clone(), y, k) - u
    torch.testing.assert_close(change, replicate(pool(change, k), k))
    torch.testing.assert_close(change, replicate(y - pool(u, k), k))


@settings(max_examples=10, deadline=None)
@given(k=st.integers(2, 6), seed=st.integers(0, 100))
def test_projecting_twice_is_projecting_once(k, seed):
    u, y = images(k, seed=seed)
    once = project(u, y, k)
    torch.testing.assert_close(project(once.clone(), y, k), once, rtol=0, atol=1e-14)


def test_float32_is_exact_to_rounding():
    u, y = (t.float() for t in images(2))
    assert (pool(project(u, y, 2), 2) - y).abs().max() < 5e-7
