"""Slides that are stored turned or mirrored."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.synthetic import reduce_by
from wsigen.arrays import ArrayCache
from wsigen.geometry import Region, Size
from wsigen.slide.orientation import stored_region, upright, upright_region, upright_size
from wsigen.slide.read import open_slide
from wsigen.slide.tiff_backend import TiffBackend

PICTURE = np.random.default_rng(0).integers(0, 255, (20, 33, 3), np.uint8)


def _shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """As Pillow shows it."""
    image = Image.fromarray(stored)
    image.getexif()[274] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_shows(orientation):
    want = _shown(PICTURE, orientation)
    np.testing.assert_array_equal(upright(PICTURE, orientation), want)
    assert upright_size(Size(20, 33), orientation) == Size(*want.shape[:2])


@settings(max_examples=40)
@given(orientation=st.integers(1, 8), data=st.data())
def test_a_region_is_found_where_it_is_stored(orientation, data):
    want = _shown(PICTURE, orientation)
    height, width = want.shape[:2]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Region(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
    at = stored_region(region, Size(height, width), orientation)
    assert upright_region(at, Size(height, width), orientation) == region
    got = upright(PICTURE[at.y : at.y1, at.x : at.x1], orientation)
    np.testing.assert_array_equal(got, want[region.y : region.y1, region.x : region.x1])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_tiff_levels_are_upright(tmp_path, he_picture, orientation):
    stored = np.ascontiguousarray(he_picture[:700])
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for flag, image in enumerate((stored, reduce_by(stored, 2))):
            tiff.write(
                image,
                photometric="rgb",
                tile=(128, 128),
                subfiletype=flag,
                metadata=None,
                resolution=(1e4 / 0.5 / 2**flag,) * 2,
                resolutionunit="CENTIMETER",
                extratags=[(274, 3, 1, orientation, True)],
            )
    slide, want = open_slide(path), _shown(stored, orientation)
    assert slide.size == Size(*want.shape[:2])
    np.testing.assert_array_equal(slide.read_region(slide.size.region, 0.5), want)
    np.testing.assert_array_equal(slide.read_region(Region(31, 50, 100, 70), 0.5), want[31:131, 50:120])
    half = slide.read_level(slide.levels[1].size.region, 1)
    np.testing.assert_array_equal(half, _shown(reduce_by(stored, 2), orientation))


def test_a_level_that_is_stored_another_way_is_left_out(tmp_path, he_picture):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for flag, (image, orientation) in enumerate(((he_picture, 6), (reduce_by(he_picture, 2), 1))):
            tags = [(274, 3, 1, orientation, True)]
            tiff.write(image, photometric="rgb", subfiletype=flag, metadata=None, extratags=tags)
    assert len(open_slide(path, 0.5).levels) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_are_upright(tmp_path, he_picture, suffix):
    image = Image.fromarray(he_picture[:300, :500])
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    slide = open_slide(tmp_path / f"a.{suffix}", 0.5)
    assert slide.size == Size(500, 300)
    want = np.rot90(he_picture[:300, :500], -1)
    assert np.abs(slide.read_region(slide.size.region, 0.5).astype(int) - want).mean() < 4


def test_height_and_width_of_a_pixel_are_exchanged_too(tmp_path, he_picture):
    path = tmp_path / "a.tif"
    tags = [(274, 3, 1, 6, True)]
    resolution = {"resolution": (1e4 / 0.5, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, he_picture, photometric="rgb", metadata=None, extratags=tags, **resolution)
    assert TiffBackend(path, ArrayCache(1)).mpp == pytest.approx((0.5, 0.25))
