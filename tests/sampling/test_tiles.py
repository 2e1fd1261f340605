"""Cells are needed where the guide shows something, whatever part of it is held."""

from __future__ import annotations

import numpy as np
import pytest

from wsigen.geometry import Region
from wsigen.sampling.tiles import CELL, box_of, cells_of, needed_cells, pixels_of


def test_cells_of_a_region_and_back():
    cells = cells_of(Region(CELL - 1, 0, 2, CELL + 1))
    assert cells == Region(0, 0, 2, 2)
    assert pixels_of(cells) == Region(0, 0, 2 * CELL, 2 * CELL)


@pytest.mark.parametrize(("margin", "expected"), [(0, {(1, 2)}), (5, {(1, 2), (0, 2)}), (4, {(1, 2)})])
def test_a_pixel_needs_its_cell_and_those_within_the_margin(margin, expected):
    occupied = np.zeros((4 * CELL, 5 * CELL), bool)
    occupied[CELL + 4, 2 * CELL + 16] = True
    needed = needed_cells(occupied, Region(0, 0, 4 * CELL, 5 * CELL), Region(0, 0, 4, 5), margin)
    assert {(int(y), int(x)) for y, x in np.argwhere(needed)} == expected


def test_the_part_that_is_held_does_not_matter():
    occupied = np.random.default_rng(0).random((6 * CELL, 6 * CELL)) > 0.9995
    whole = needed_cells(occupied, Region(0, 0, 6 * CELL, 6 * CELL), Region(0, 0, 6, 6), 8)
    held = Region(CELL - 8, 2 * CELL - 8, 3 * CELL + 16, 2 * CELL + 16)
    part = occupied[held.y : held.y1, held.x : held.x1]
    assert 0 < whole.sum() < whole.size
    assert np.array_equal(needed_cells(part, held, Region(1, 2, 3, 2), 8), whole[1:4, 2:4])


def test_the_box_holds_all_that_is_needed():
    needed = np.zeros((3, 4), bool)
    assert not box_of(needed, Region(5, 6, 3, 4))
    needed[1, 1] = needed[2, 3] = True
    assert box_of(needed, Region(5, 6, 3, 4)) == Region(6 * CELL, 7 * CELL, 2 * CELL, 3 * CELL)
