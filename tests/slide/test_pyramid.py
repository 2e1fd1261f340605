from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.geometry import Size
from wsigen.slide.pyramid import TileRows, halve, level_size, pad_edge, pyramid_levels


def halve_slowly(image):
    padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge").astype(
        int
    )
    total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_halve_is_the_rounded_mean_of_2x2(height, width, seed):
    image = noise(height, width, seed)
    np.testing.assert_array_equal(halve(image), halve_slowly(image))


def test_halve_of_rows_wider_than_16_bits():
    image = noise(4, 70001)
    np.testing.assert_array_equal(halve(image), halve_slowly(image))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 12))
def test_level_size_is_the_size_of_repeated_halving(height, width, level):
    size = Size(height, width)
    for _ in range(level):
        size = Size((size.height + 1) // 2, (size.width + 1) // 2)
    assert level_size(Size(height, width), level) == size


@pytest.mark.parametrize(
    ("height", "width", "levels"),
    [
        (1, 1, 1),
        (512, 512, 1),
        (513, 513, 2),
        (512, 9000, 1),
        (2048, 2048, 3),
        (65536, 65536, 8),
        (5000, 1100, 3),
    ],
)
def test_levels_stop_when_the_shorter_side_fits_a_screen(height, width, levels):
    assert pyramid_levels(Size(height, width)) == levels


def test_pad_edge_repeats_the_border():
    padded = pad_edge(noise(3, 5), 8, 8)
    np.testing.assert_array_equal(padded, np.pad(noise(3, 5), ((0, 5), (0, 3), (0, 0)), mode="edge"))
    whole = noise(8, 8)
    assert pad_edge(whole, 8, 8) is whole


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 60),
    st.sampled_from([8, 16, 32]),
    st.integers(1, 5),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_strips_are_the_levels_cut_into_rows_of_tiles(height, width, tile, levels, chops):
    image = noise(height, width)
    stream, found, y = TileRows(Size(height, width), tile, levels), {}, 0
    while y < height:
        chop = chops[len(found) % len(chops)]
        for level, row, strip in stream.cut(image[y : y + chop]):
            assert (level, row) not in found
            found[level, row] = strip.copy()
        y += chop
    assert stream.rows == height
    for level in range(levels):
        rows = [found.pop((level, row)) for row in range(-(-len(image) // tile))]
        assert all(len(strip) == tile for strip in rows[:-1])
        np.testing.assert_array_equal(np.concatenate(rows), image)
        image = halve_slowly(image)
    assert not found
