"""Regions in (y, x) order, also of integers that NumPy computed."""

from __future__ import annotations

import numpy as np

from wsigen.geometry import Region, Size
from wsigen.slide.read import open_slide


def test_common_parts_and_moves():
    one, other = Region(0, 0, 10, 20), Region(5, 15, 10, 20)
    assert one.intersect(other) == Region(5, 15, 5, 5)
    assert not one.intersect(Region(10, 0, 5, 5))
    assert one.shift(2, -3).pad(1) == Region(1, -4, 12, 22)
    assert Size(3, 4).region.size.area == 12


def test_truth_is_a_bool_whatever_the_integers():
    assert bool(Region(*np.array([0, 0, 3, 4]))) is True
    assert bool(Region(*np.array([0, 0, 0, 4]))) is False
    assert bool(Region(0, 0, 3, -1)) is False


def test_slides_are_read_at_regions_of_numpy_integers(he_slide):
    slide, corner = open_slide(he_slide), np.array([100, 200, 64, 48])
    expected = slide.read_region(Region(100, 200, 64, 48), 0.7)
    np.testing.assert_array_equal(slide.read_region(Region(*corner), np.float64(0.7)), expected)
