"""Copies between regions, and the cache that drops what was not used for longest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsigen.arrays import ArrayCache, part, paste
from wsigen.geometry import Region

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
WHOLE = Region(0, 0, 20, 30)


@given(y=st.integers(0, 19), x=st.integers(0, 29), dy=st.integers(-25, 25), dx=st.integers(-35, 35))
def test_the_overlap_is_copied_and_nothing_else(y, x, dy, dx):
    at = Region(y, x, 20 - y, 30 - x)
    region = Region(dy, dx, 9, 11)
    out = np.zeros((9, 11, 3), np.uint8)
    paste(part(IMAGE, WHOLE, at), at, out, region)
    for row in range(9):
        for col in range(11):
            inside = at.intersect(Region(dy + row, dx + col, 1, 1))
            assert np.array_equal(out[row, col], IMAGE[dy + row, dx + col] if inside else (0, 0, 0))


class TestArrayCache:
    def test_drops_what_was_not_used_for_longest(self):
        cache = ArrayCache(3000)
        for i in range(3):
            cache.put(i, np.full(1000, i, np.uint8))
        assert cache.get(0) is not None
        cache.put(3, np.zeros(1000, np.uint8))
        assert [i in cache for i in range(4)] == [True, False, True, True]
        held = cache.get(2)
        assert held is not None
        assert (held == 2).all()

    def test_never_holds_more_than_its_capacity(self):
        cache = ArrayCache(1000)
        cache.put(0, np.zeros(1001, np.uint8))
        assert cache.get(0) is None
        for _ in range(3):  # the same one again counts once
            cache.put(1, np.zeros(600, np.uint8))
        cache.put(2, np.zeros(400, np.uint8))
        assert cache.get(1) is not None
        assert cache.nbytes == 1000
        cache.clear()
        assert cache.nbytes == 0
        assert 1 not in cache
