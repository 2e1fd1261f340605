"""The glass of a slide that is not there: cell for cell the map of the whole slide, from what lies nearby."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, ImageSource
from wsigen.geometry import Region, Size
from wsigen.pipeline.background import CELL, LocalBackground, stage_background

SIDE = 1200
EXTENT = 2 * SIDE
CELLS = EXTENT // CELL


def cells_image(occupied: np.ndarray) -> np.ndarray:
    """A stage above whose cells of 8 px are tissue or glass."""
    shown = occupied.repeat(8, axis=0).repeat(8, axis=1)
    return np.where(shown[..., None], np.uint8(150), np.array(GLASS, np.uint8)).astype(np.uint8)


def parts(seed: int = 0) -> np.ndarray:
    """Crumbs of all sizes, a large piece, and a thread through many blocks: bool cells."""
    rng = np.random.default_rng(seed)
    occupied = rng.random((CELLS, CELLS)) < 0.3
    occupied[:, 70:] &= rng.random((CELLS, CELLS - 70)) < 0.4
    occupied[20:60, 90:130] = True
    occupied[100:103] = occupied[:, 75:78] = False
    occupied[101, 10:149] = True
    occupied[142:146] = False
    occupied[144, 20:120] = True  # 100 cells, which is less than 125: dust, however long
    return occupied


class Watched(ImageSource):
    def __init__(self, image):
        super().__init__(image)
        self.area = 0

    def read(self, region):
        self.area += region.width * region.height
        return super().read(region)


IMAGE = cells_image(parts())
WHOLE = stage_background(ImageSource(IMAGE), Size.square(EXTENT), 2, mpp=0.5, colour=GLASS)


def local(image=IMAGE, **changes):
    values = {"size": Size(*image.shape[:2]).times(2), "k": 2, "mpp": 0.5, "colour": GLASS} | changes
    return LocalBackground(ImageSource(image), **values)


def test_the_map_has_dust_and_tissue_of_every_kind():
    dusty = parts()
    dropped = dusty & ~WHOLE.occupied
    assert 0.1 < dropped.mean() < 0.3
    assert dropped[144, 20:120].all()
    assert WHOLE.occupied[20:60, 90:130].all()
    assert WHOLE.occupied[101, 10:149].all()


def test_all_cells_are_those_of_the_whole_map():
    assert np.array_equal(local().occupied(Region(0, 0, CELLS, CELLS)), WHOLE.occupied)


@settings(max_examples=20)
@given(y=st.integers(0, 149), x=st.integers(0, 149), h=st.integers(1, 40), w=st.integers(1, 40))
def test_any_cells_alone_are_decided_alike(y, x, h, w):
    cells = Region(y, x, h, w).intersect(Region(0, 0, CELLS, CELLS))
    expected = WHOLE.occupied[cells.y : cells.y1, cells.x : cells.x1]
    assert np.array_equal(local().occupied(cells), expected)


@settings(max_examples=20)
@given(y=st.integers(0, 2300), x=st.integers(0, 2300), h=st.integers(1, 500), w=st.integers(1, 500))
def test_what_is_said_of_pixels_is_what_the_map_says(y, x, h, w):
    region, glass = Region(y, x, h, w).intersect(Region(0, 0, EXTENT, EXTENT)), local()
    assert glass.fraction(region) == WHOLE.fraction(region)
    assert glass.range(region) == WHOLE.range(region)
    assert np.array_equal(glass.opacity(region), WHOLE.opacity(region))


@pytest.mark.parametrize(("side", "mpp"), [(100, 0.5), (36, 0.25), (300, 8.0), (264, 1.0)])
def test_sides_that_end_within_a_cell_and_other_scales(side, mpp):
    image = np.random.default_rng(side).choice(np.array([150, 243], np.uint8), (side // 4, side // 4, 1))
    image = image.repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)
    whole = stage_background(ImageSource(image), Size.square(2 * side), 2, mpp=mpp, colour=GLASS)
    count = -(-2 * side // CELL)
    found = local(image, mpp=mpp).occupied(Region(0, 0, count, count))
    assert np.array_equal(found, whole.occupied)
    one = local(image, mpp=mpp).occupied(Region(count - 1, count // 2, 1, 1))
    assert one[0, 0] == whole.occupied[count - 1, count // 2]


def test_within_tissue_no_more_is_read_than_is_near():
    source = Watched(np.full((4096, 4096, 3), 150, np.uint8))
    glass = LocalBackground(source, Size.square(8192), 2, mpp=0.5, colour=GLASS)
    assert glass.range(Region(4000, 4000, 100, 100)) == (1, 1)
    assert source.area <= (4 * 256) ** 2
