"""A slide in memory, read like one in a file: every read is compared with OpenSlide's own of its pixels."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from tests.synthetic import he_image, reduce_by
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.slide import read
from wsigen.slide.levels import FileSlide, Slide

IMAGE = he_image(512, seed=3)
LEVELS = [IMAGE, reduce_by(IMAGE, 2), reduce_by(IMAGE, 4)]


class Arrays:
    levels = tuple(Size(*image.shape[:2]) for image in LEVELS)

    def read(self, region, level):
        bounds = self.levels[level].region
        assert region
        assert region.intersect(bounds) == region
        return LEVELS[level][region.y : region.y1, region.x : region.x1]


def virtual():
    return Slide(Arrays(), (1, 2, 4), 0.5, {"wsigen.seed": "7"})


@pytest.fixture(scope="module")
def real_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("virtual") / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, image in enumerate(LEVELS):
            tiff.write(
                image,
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate",
                metadata=None,
                subfiletype=int(level > 0),
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.fixture(scope="module")
def real(real_path):
    with openslide.OpenSlide(real_path) as slide:
        yield slide


def test_it_says_of_itself_what_openslide_says_of_the_file(real):
    slide = virtual()
    assert slide.dimensions == real.dimensions == (512, 512)
    assert slide.level_count == real.level_count
    assert slide.level_dimensions == real.level_dimensions
    assert slide.level_downsamples == real.level_downsamples
    assert dict(slide.associated_images) == {}
    common = [f"openslide.level[{i}].{what}" for i in range(3) for what in ("downsample", "height", "width")]
    common += ["openslide.level-count", "openslide.mpp-x", "openslide.mpp-y"]
    assert {key: slide.properties[key] for key in common} == {key: real.properties[key] for key in common}
    assert slide.properties["wsigen.seed"] == "7"
    for downsample in (0.5, 1, 1.9, 2, 3.99, 4, 100):
        best = real.get_best_level_for_downsample(downsample)
        assert slide.get_best_level_for_downsample(downsample) == best


@pytest.mark.parametrize("level", [0, 1, 2])
@settings(max_examples=40)
@given(x=st.integers(-20, 135), y=st.integers(-20, 135), w=st.integers(1, 150), h=st.integers(1, 150))
def test_whole_pixels_are_read_as_openslide_reads_them(real, level, x, y, w, h):
    place, d = (4 * x, 4 * y), (w, h)
    mine, theirs = (np.asarray(slide.read_region(place, level, d)) for slide in (virtual(), real))
    assert mine.shape == (h, w, 4)
    assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("level", [1, 2])
@settings(max_examples=40)
@given(x=st.integers(-30, 400), y=st.integers(-30, 400), w=st.integers(1, 20), h=st.integers(1, 20))
def test_between_pixels_both_are_mixed(real, level, x, y, w, h):
    mine, theirs = (
        np.asarray(slide.read_region((x, y), level, (w, h))).astype(int) for slide in (virtual(), real)
    )
    assert np.abs(mine - theirs).max() <= 2


def test_nothing_of_the_slide_is_transparent():
    slide = virtual()
    for place in ((512, 0), (0, 5000), (-400, 0)):
        assert not np.asarray(slide.read_region(place, 1, (9, 9))).any()


def test_a_thumbnail_and_deep_zoom_are_those_of_the_file(real):
    mine, theirs = (np.asarray(slide.get_thumbnail((100, 100))) for slide in (virtual(), real))
    assert mine.shape == (100, 100, 3)
    assert np.array_equal(mine, theirs)
    zooms = [DeepZoomGenerator(slide, tile_size=254, overlap=1) for slide in (virtual(), real)]
    assert zooms[0].level_tiles == zooms[1].level_tiles
    for level, place in ((9, (1, 1)), (8, (0, 0)), (4, (0, 0))):
        mine, theirs = (np.asarray(zoom.get_tile(level, place)) for zoom in zooms)
        assert np.array_equal(mine, theirs)


def test_arrays_are_in_the_pixels_of_their_level():
    assert np.array_equal(virtual().read(Region(3, 5, 7, 11), 1), LEVELS[1][3:10, 5:16])


def test_mistakes_are_named():
    slide = virtual()
    with pytest.raises(InvalidValueError, match="level must be between 0 and 2, got 3"):
        slide.read_region((0, 0), 3, (1, 1))
    with pytest.raises(InvalidValueError, match="level must be between 0 and 2, got -1"):
        slide.read(Region(0, 0, 1, 1), -1)
    for size in ((0, 4), (4, -1)):
        with pytest.raises(InvalidValueError, match=f"at least 1 x 1 px, got {size[0]} x {size[1]}"):
            slide.read_region((0, 0), 0, size)
    with pytest.raises(InvalidValueError, match="inside level 1, which is 256 x 256 px"):
        slide.read(Region(0, 250, 4, 8), 1)
    with pytest.raises(InvalidValueError, match="at least 1 x 1 px"):
        slide.read(Region(0, 0, 0, 8), 1)
    with slide:
        pass
    with pytest.raises(InvalidValueError, match="the slide is closed"):
        slide.read_region((0, 0), 0, (4, 4))


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 2.0, 3.3])
def test_regions_in_um_are_those_of_the_file_at_that_scale(real_path, mpp):
    whole, slide = read.open_slide(real_path), FileSlide(read.open_slide(real_path))
    region = slide.read_region_um(x=30 * mpp, y=-5 * mpp, width=40 * mpp, height=50 * mpp, mpp=mpp)
    np.testing.assert_array_equal(region, whole.read_region(Region(-5, 30, 50, 40), mpp))
    computed = virtual().read_region_um(x=30 * mpp, y=-5 * mpp, width=40 * mpp, height=50 * mpp, mpp=mpp)
    np.testing.assert_array_equal(computed, region)


def test_a_file_says_what_its_slide_has(real_path):
    slide = FileSlide(read.open_slide(real_path))
    assert slide.mpp == 0.5
    assert slide.level_dimensions == tuple(size[::-1] for size in [(512, 512), (256, 256), (128, 128)])
    assert slide.properties["openslide.mpp-x"] == "0.5"
    shown = np.asarray(slide.read_region((64, 32), 1, (100, 90)))[..., :3]
    np.testing.assert_array_equal(shown, LEVELS[1][16:106, 32:132])


def test_a_notebook_shows_thumbnail_size_and_scale():
    shown = virtual()._repr_html_()
    assert "512 x 512 px, 0.5 µm/px" in shown
    data = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (384, 384)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mpp": 0.4}, "at least 0.45"),
        ({"mpp": 0.0}, "mpp must be positive"),
        ({"width": -1.0}, "width must be"),
    ],
)
def test_regions_in_um_that_cannot_be_are_named(values, message):
    given = {"x": 0.0, "y": 0.0, "width": 10.0, "height": 10.0, "mpp": 1.0}
    with pytest.raises(InvalidValueError, match=message):
        virtual().read_region_um(**(given | values))
