"""A region translated by itself is, bit for bit, what a sweep over the whole slide gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stain.models import small_generator
from tests.stain.translations import GLASS, OneNorm, crop, texture, translate
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import REACH, BackgroundMap, BackgroundWindow
from wsigen.stain.engine.local import LocalTranslator
from wsigen.stain.normalise.norm import Norm

HEIGHT, WIDTH, CELL = 500, 600, 16


def picture():
    image = texture(HEIGHT, WIDTH, seed=4)
    occupied = np.zeros((-(-HEIGHT // CELL), -(-WIDTH // CELL)), bool)
    occupied[5:26, 3:20] = True
    occupied[12:14, 33:35] = True
    shown = occupied.repeat(CELL, axis=0).repeat(CELL, axis=1)[:HEIGHT, :WIDTH]
    image[~shown] = GLASS
    return image, BackgroundMap(occupied, CELL)


IMAGE, MAP = picture()


def local(net, **options):
    return LocalTranslator(net, Size(HEIGHT, WIDTH), lambda region: crop(IMAGE, region), **options)


@pytest.fixture(scope="module")
def whole():
    (out,) = translate([small_generator()], IMAGE, background=MAP, pitch=64, tile=192)
    return out


@pytest.mark.parametrize("tile", [100, 512])
def test_all_of_it_is_the_sweep(whole, tile):
    part = local(small_generator(), background=MAP, pitch=64, tile=tile)
    assert np.array_equal(part.read(Region(0, 0, HEIGHT, WIDTH)), whole)
    assert (whole != IMAGE).any(axis=2).mean() > 0.3


@pytest.fixture(scope="module")
def used():
    """One translator for all regions: what was read before must not show."""
    return local(small_generator(), background=MAP, pitch=64)


@settings(max_examples=8, deadline=None)
@given(y=st.integers(0, 499), x=st.integers(0, 599), h=st.integers(1, 130), w=st.integers(1, 130))
def test_any_region_is_a_part_of_the_sweep(whole, used, y, x, h, w):
    region = Region(y, x, h, w).intersect(Size(HEIGHT, WIDTH).region)
    assert np.array_equal(used.read(region), crop(whole, region))


@pytest.mark.parametrize("region", [Region(0, 0, 3, 3), Region(490, 590, 10, 10), Region(250, 200, 64, 64)])
def test_the_first_region_that_is_read_is_no_different(whole, region):
    assert np.array_equal(
        local(small_generator(), background=MAP, pitch=64).read(region), crop(whole, region)
    )


@pytest.mark.parametrize("name", ["dn-4", "kin-gaussian-5"])
def test_without_glass_and_with_other_norms(name):
    norm = Norm.parse(name)
    (out,) = translate([OneNorm()], IMAGE, norm=norm, pitch=64, tile=128)
    part = local(OneNorm(), norm=norm, pitch=64)
    for region in (Region(100, 200, 70, 90), Region(440, 501, 60, 99)):
        assert np.array_equal(part.read(region), crop(out, region))


def test_without_norm_layers():
    net = small_generator(norm="none")
    (out,) = translate([net], IMAGE, norm=None, tile=128)
    part = local(net, norm=None)
    for region in (Region(100, 200, 70, 90), Region(440, 501, 60, 99)):
        assert np.array_equal(part.read(region), crop(out, region))


def test_a_slide_smaller_than_a_patch():
    image = texture(90, 61, seed=2)
    (out,) = translate([small_generator()], image)
    part = LocalTranslator(small_generator(), Size(90, 61), lambda region: crop(image, region))
    for region in (Region(0, 0, 90, 61), Region(70, 50, 20, 11)):
        assert np.array_equal(part.read(region), crop(out, region))


def test_a_region_of_glass_needs_no_statistics():
    def refuse(region):
        assert region.y >= 440, "nothing but the region itself is read"
        return crop(IMAGE, region)

    part = LocalTranslator(small_generator(), Size(HEIGHT, WIDTH), refuse, background=MAP, pitch=64)
    region = Region(490, 580, 10, 20)
    assert np.array_equal(part.read(region), crop(IMAGE, region))


@settings(max_examples=30, deadline=None)
@given(y=st.integers(0, 490), x=st.integers(0, 580), h=st.integers(1, 90), w=st.integers(1, 90))
def test_a_window_of_the_glass_says_what_the_map_says(y, x, h, w):
    region = Region(y, x, h, w).intersect(Size(HEIGHT, WIDTH).region)
    first = Region(region.y // CELL, region.x // CELL, 0, 0)
    end_y, end_x = -(-region.y1 // CELL), -(-region.x1 // CELL)
    cells = Region(first.y, first.x, end_y - first.y, end_x - first.x).pad(REACH)
    cells = cells.intersect(Region(0, 0, *MAP.occupied.shape))
    window = BackgroundWindow(crop(MAP.occupied, cells), cells, CELL)
    assert window.fraction(region) == MAP.fraction(region)
    assert window.range(region) == MAP.range(region)
    assert np.array_equal(window.opacity(region), MAP.opacity(region))


def test_statistics_of_the_whole_slide_are_not_local():
    with pytest.raises(InvalidValueError, match="statistics of nodes, which norm tin has none of"):
        local(OneNorm(), norm=Norm("tin"))
    with pytest.raises(InvalidValueError, match="stats_pitch must be a multiple of 4"):
        local(OneNorm(), pitch=70)
