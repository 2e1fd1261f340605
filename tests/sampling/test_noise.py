"""Noise belongs to positions: any way of asking gives the same values, normal and independent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.noise import Noise

WHOLE = Region(-100, -300, 300, 700)
FIELD = Noise(7, 3)
VALUES = FIELD.region(WHOLE)


def part(region: Region) -> np.ndarray:
    spot = region.shift(-WHOLE.y, -WHOLE.x)
    return VALUES[:, spot.y : spot.y1, spot.x : spot.x1]


@settings(max_examples=40, deadline=None)
@given(y=st.integers(-100, 199), x=st.integers(-300, 399), h=st.integers(1, 150), w=st.integers(1, 300))
def test_any_region_is_a_part_of_the_same_field(y, x, h, w):
    region = Region(y, x, h, w).intersect(WHOLE)
    assert np.array_equal(Noise(7, 3).region(region), part(region))


def test_values_do_not_depend_on_order_cache_or_threads():
    with ThreadPoolExecutor(3) as pool:
        field = Noise(7, 3, pool=pool, cached_blocks=1)
        field.prefetch(Region(0, 0, 100, 400))
        for region in (Region(50, 100, 80, 200), Region(0, 0, 10, 10), Region(-100, -300, 64, 256)):
            assert np.array_equal(field.region(region), part(region))
            out = np.empty((3, region.height, region.width), np.float32)
            field.fill(region, out, keep=False)
            assert np.array_equal(out, part(region))


def test_many_threads_fill_what_one_does():
    field = Noise(7, 3, cached_blocks=2)
    regions = [Region(y, x, 64, 100) for y in range(-64, 130, 64) for x in range(-300, 400, 100)]
    with ThreadPoolExecutor(4) as pool:
        for region, values in zip(regions, pool.map(field.region, regions), strict=True):
            assert np.array_equal(values, part(region))


def test_values_are_standard_normal():
    values = Noise(0, 0).region(Region(0, 0, 512, 1024)).astype(np.float64)
    n = values.size
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert 4.5 < np.abs(values).max() < 7


@pytest.mark.parametrize("lag", [(1, 0), (0, 1), (64, 0), (0, 256), (64, 256)])
def test_neighbours_and_neighbouring_blocks_are_uncorrelated(lag):
    values = Noise(0, 1).region(Region(-128, -512, 512, 1024)).astype(np.float64)
    dy, dx = lag
    product = values[:, dy:, dx:] * values[:, : values.shape[1] - dy, : values.shape[2] - dx]
    assert abs(product.mean()) < 5 / np.sqrt(product.size)
    between_channels = values[0] * values[1]
    assert abs(between_channels.mean()) < 5 / np.sqrt(between_channels.size)


def test_seeds_stages_and_blocks_have_their_own_streams():
    block = Region(0, 0, 64, 256)
    fields = [Noise(0, 0), Noise(1, 0), Noise(0, 1), Noise(2**64 - 1, 0)]
    values = [field.region(block) for field in fields]
    values += [fields[0].region(block.shift(dy, dx)) for dy, dx in ((64, 0), (0, 256), (-64, 0), (0, -256))]
    correlations = np.corrcoef([v.ravel() for v in values]) - np.eye(len(values))
    assert np.abs(correlations).max() < 5 / np.sqrt(block.height * block.width * 3)


def test_values_are_those_of_earlier_versions():
    """Slides are promised to depend on their seed alone: this fails if the noise ever changes."""
    corner = Noise(0, 1).region(Region(-1, -1, 2, 2))
    expected = [[1.22814, 0.812213], [1.671457, -1.431463]]
    assert corner.dtype == np.float32
    np.testing.assert_allclose(corner[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(InvalidValueError, match="seed must be between"):
        Noise(seed, 0)


def test_fewer_channels_are_the_first_of_more():
    more = Noise(7, 3, channels=9).region(WHOLE)
    assert more.shape == (9, WHOLE.height, WHOLE.width)
    assert np.array_equal(more[:3], VALUES)
    between = np.corrcoef(more.reshape(9, -1)) - np.eye(9)
    assert np.abs(between).max() < 5 / np.sqrt(WHOLE.height * WHOLE.width)
