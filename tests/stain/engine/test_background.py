"""Glass: opacity by hand, the same from any window, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wsigen.stain.engine.background as module
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.stain.engine.background import BackgroundMap, background_map


def island(height: int = 24, width: int = 30, y: int = 10, x: int = 12) -> BackgroundMap:
    occupied = np.zeros((height, width), bool)
    occupied[y, x] = True
    return BackgroundMap(occupied, 4)


def test_opacity_falls_from_two_to_four_cells():
    glass = BackgroundMap(island().occupied, 5)  # an odd cell has a pixel in its centre
    centres = glass.opacity(Region(0, 0, 120, 150))[2::5, 2::5]
    assert centres[10, 12:22].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0]
    assert centres[10:0:-1, 12].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0]
    assert centres[12, 14] == pytest.approx((4 - 8**0.5) / 2, abs=1e-3)


def test_opacity_is_linear_between_the_centres_of_cells():
    line = BackgroundMap(island().occupied, 5).opacity(Region(10 * 5 + 2, (12 + 2) * 5 + 2, 1, 6))[0]
    np.testing.assert_allclose(line, [1, 0.9, 0.8, 0.7, 0.6, 0.5], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(y=st.integers(-6, 90), x=st.integers(-6, 110), height=st.integers(1, 40), width=st.integers(1, 40))
def test_opacity_depends_on_position_alone(y, x, height, width):
    glass = island()
    whole = glass.opacity(Region(-10, -10, 160, 180))
    part = glass.opacity(Region(y, x, height, width))
    np.testing.assert_array_equal(part, whole[y + 10 : y + 10 + height, x + 10 : x + 10 + width])


@settings(max_examples=30, deadline=None)
@given(y=st.integers(0, 90), x=st.integers(0, 110), side=st.integers(1, 60), cell=st.integers(1, 9))
def test_range_bounds_the_opacity(y, x, side, cell):
    rng = np.random.default_rng(side)
    glass = BackgroundMap(rng.random((20, 25)) < 0.01, cell)
    low, high = glass.range(Region(y, x, side, side))
    opacity = glass.opacity(Region(y, x, side, side))
    assert low <= opacity.min() <= opacity.max() <= high


def test_all_tissue_and_all_glass_are_exact():
    region = Region(3, 5, 77, 50)
    for occupied, value in ((True, 1), (False, 0)):
        glass = BackgroundMap(np.full((20, 20), occupied), 7)
        assert glass.range(region) == (value, value)
        assert (glass.opacity(region) == value).all()
        assert glass.fraction(region) == value


def test_fraction_counts_the_cells_that_are_touched():
    glass = island()
    assert glass.fraction(Region(40, 48, 4, 4)) == 1
    assert glass.fraction(Region(36, 44, 12, 12)) == pytest.approx(1 / 9)
    assert glass.fraction(Region(41, 49, 5, 5)) == pytest.approx(1 / 4)
    assert glass.fraction(Region(0, 0, 40, 120)) == 0
    assert glass.fraction(Region(500, 500, 40, 40)) == 0  # beyond the map, its edge goes on


def test_tall_maps_are_made_in_windows_that_cannot_be_seen(monkeypatch):
    occupied = np.random.default_rng(0).random((100, 40)) < 0.004
    whole = BackgroundMap(occupied, 4).opacity(Region(0, 0, 400, 160))
    monkeypatch.setattr(module, "_WINDOW", 7)
    np.testing.assert_array_equal(BackgroundMap(occupied, 4).opacity(Region(0, 0, 400, 160)), whole)


def test_cells_that_differ_from_the_background_are_tissue():
    overview = np.full((2, 3, 3), 240, np.uint8)
    overview[0, 1] = (240, 240, 229)
    overview[1, 2] = (240, 227, 240)
    glass = background_map(overview, (240, 240, 240), cell=16)
    assert glass.occupied.tolist() == [[False, False, False], [False, False, True]]
    stricter = background_map(overview, (240, 240, 240), cell=16, tolerance=10)
    assert stricter.occupied.tolist() == [[False, True, False], [False, False, True]]
    assert background_map(overview, (252, 250, 255), cell=16, tolerance=15).occupied.tolist()[0] == [
        False,
        True,
        False,
    ]


def test_without_a_background_all_is_tissue():
    assert background_map(np.full((4, 5, 3), 243, np.uint8), None, cell=16).occupied.all()


def test_memory_is_three_bytes_a_cell():
    assert BackgroundMap(np.ones((30, 40), bool), 16).nbytes == 3 * 30 * 40


@pytest.mark.parametrize(("shape", "cell"), [((0, 4), 16), ((4,), 16), ((4, 4), 0)])
def test_impossible_maps_are_refused(shape, cell):
    with pytest.raises(InvalidValueError, match="background map"):
        BackgroundMap(np.ones(shape, bool), cell)
